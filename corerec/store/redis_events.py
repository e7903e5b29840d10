"""Storing events in Redis: read what it takes, work out the histories, write unless disturbed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from corerec.errors import FailedPrecondition, NotFound
from corerec.store import redis_scripts as scripts
from corerec.store.base import Event
from corerec.store.redis_link import Link
from corerec.store.redis_rows import pack_event, pack_history, unpack_user, version_of
from corerec.store.rows import merge


def append(link: Link, events: Sequence[Event], log_events: int) -> int | None:
    """Store the events, or return None when another writer was faster with one of the users."""
    histories, stored = _before(link, events)
    new: dict[str, list[Event]] = {}
    places: dict[str, int] = {}
    rows: list[Any] = []
    for event in events:
        key = (event.user_id, event.event_id)
        if event.event_id and key in stored:
            continue
        stored.add(key)
        new.setdefault(event.user_id, []).append(event)
        place = places.setdefault(event.user_id, len(new))
        rows += (place, event.event_id, pack_event(event))
    if not rows:
        return 0
    users: list[Any] = []
    for user_id, own in new.items():
        state = unpack_user(link.name, user_id, None, histories[user_id])
        more = [(event.item_number, event.time_micros) for event in own]
        read, version = version_of(histories[user_id])
        columns = merge(state.items, state.times, more)
        users += (user_id, read, pack_history(user_id, *columns, version))
    keys = ["histories", "more:histories", "events", "seq", *map(_once, new)]
    done = link.run(scripts.APPEND, keys, [log_events, *users, *rows])
    return len(rows) // 3 if done else None


def _before(
    link: Link, events: Sequence[Event]
) -> tuple[dict[str, bytes | None], set[tuple[str, str]]]:
    """Return the users' histories, and which (user, event id) are stored; check the items."""
    items = {event.item_id: None for event in events}
    once: dict[str, dict[str, None]] = {}
    for event in events:
        ids = once.setdefault(event.user_id, {})
        if event.event_id:
            ids[event.event_id] = None
    given: list[Any] = [len(items), *items]
    for user_id, ids in once.items():
        given += (user_id, len(ids), *ids)
    hashes = ["numbers", "more:numbers", "histories", "more:histories"]
    keys = [*hashes, *map(_once, once)]
    numbers, histories, stored = link.run(scripts.BEFORE, keys, given, again=True)
    _check_numbers(link.name, events, dict(zip(items, numbers, strict=True)))
    asked = [(user_id, event_id) for user_id, ids in once.items() for event_id in ids]
    known = {key for key, flag in zip(asked, stored, strict=True) if flag}
    return dict(zip(once, histories, strict=True)), known


def _check_numbers(
    place: str, events: Sequence[Event], numbers: Mapping[str, bytes | None]
) -> None:
    for event in events:
        number = numbers[event.item_id]
        if number is None:
            raise NotFound(f"item_id {event.item_id!r} is not in the catalogue")
        if int(number) != event.item_number:
            raise FailedPrecondition(
                f"item {event.item_id!r} has number {int(number)} in store {place}, not "
                f"{event.item_number}: the release does not belong to this store; use another "
                "store"
            )


def _once(user_id: str) -> str:
    """Return the name of the set of a user's event ids."""
    return f"once:{user_id}"
