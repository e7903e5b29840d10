"""RedisStore: the store for clusters of several machines, in one Redis with an append-only file.

What is acknowledged is on Redis's disk: it must fsync its log at each write. See docs/store.md.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from corerec.errors import InvalidArgument, Unavailable
from corerec.release import Release
from corerec.store import redis_scripts as scripts
from corerec.store.base import Event, Progress, UserState, check_attributes, check_event
from corerec.store.catalogue import Item, ItemChange, check_items
from corerec.store.limits import check_id, check_limit
from corerec.store.redis_events import append
from corerec.store.redis_link import Durability, Link
from corerec.store.redis_rows import (
    pack_body,
    pack_profile,
    unpack_event,
    unpack_record,
    unpack_user,
    version_of,
)
from corerec.store.redis_seed import Seeding

_USERS = ["profiles", "more:profiles", "histories", "more:histories"]
_CATALOGUE = [
    "numbers",
    "more:numbers",
    "ids",
    "next",
    "catalogue",
    "positions",
    "position",
]
_CHUNK = 512
"""Most users or items that one script reads: other calls wait while it runs."""


class RedisStore:
    """A store in one Redis database; see `Store` for what its methods promise."""

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "corerec",
        busy_seconds: float = 2.0,
        durability: Durability = "always",
        log_events: int = 5_000_000,
    ) -> None:
        """Open the store at `redis://[user:password@]host:port/db`, or make an empty one.

        `prefix`: begins the names of all keys; several stores may share a database.
        `busy_seconds`: how long each step of a call, getting a connection and an answer, may take
        before it raises Unavailable.
        `durability`: "always" refuses a server that does not fsync each write. "everysec" takes one
        that fsyncs once a second, whose crash loses up to a second of what was acknowledged.
        `log_events`: newest events that `events_after` has, > 0; histories do not need them.

        Raises:
            InvalidArgument: the URL or an option is malformed.
            Unavailable: no such server answers, it is not durable, or holds something else.
        """
        if log_events < 1:
            raise InvalidArgument(f"log_events must be at least 1, got {log_events}")
        self._busy_seconds, self._log_events = busy_seconds, log_events
        self._link = Link(url, prefix=prefix, busy_seconds=busy_seconds, durability=durability)

    @property
    def address(self) -> str:
        """The server's address, without a password."""
        return self._link.name

    def read_users(self, ids: Sequence[str]) -> list[UserState]:
        """See `Store.read_users`."""
        found: list[UserState] = []
        for start in range(0, len(ids), _CHUNK):
            found += self._read(ids[start : start + _CHUNK], 0, 0)[0]
        return found

    def read_users_and_changes(
        self, ids: Sequence[str], after: int, limit: int = 1000
    ) -> tuple[list[UserState], list[ItemChange]]:
        """See `Store.read_users_and_changes`."""
        check_limit(limit)
        return self._read(ids, after, limit)

    def append_events(self, events: Sequence[Event]) -> int:
        """See `Store.append_events`."""
        for event in events:
            check_event(event)
        if not events:
            return 0
        return self._until_undisturbed(lambda: append(self._link, events, self._log_events))

    def put_users(self, rows: Iterable[tuple[str, Mapping[str, str]]]) -> int:
        """See `Store.put_users`."""
        changes: dict[str, dict[str, str]] = {}
        count = 0
        for count, (user_id, attributes) in enumerate(rows, 1):  # noqa: B007
            check_attributes(user_id, attributes)
            changes.setdefault(user_id, {}).update(attributes)
        if changes:
            self._until_undisturbed(lambda: self._put_users(changes))
        return count

    def upsert_items(self, items: Sequence[Item]) -> list[ItemChange]:
        """See `Store.upsert_items`."""
        check_items(items)
        if not items:
            return []
        given = [text for i in items for text in (i.item_id, pack_body(i.item_id, i))]
        answer = self._link.run(scripts.UPSERT, _CATALOGUE, given)
        return [
            ItemChange(position=position, number=number, item_id=item.item_id, item=item)
            for item, number, position in zip(items, answer[::2], answer[1::2], strict=True)
        ]

    def delete_items(self, ids: Sequence[str]) -> list[ItemChange]:
        """See `Store.delete_items`."""
        for item_id in ids:
            check_id(item_id, "item_id")
        if not ids:
            return []
        given = [text for i in dict.fromkeys(ids) for text in (i, pack_body(i, None))]
        answer = self._link.run(scripts.DELETE, _CATALOGUE, given)
        return [
            ItemChange(position=position, number=number, item_id=given[2 * index], item=None)
            for index, number, position in zip(*(answer[i::3] for i in range(3)), strict=True)
        ]

    def read_items(self, ids: Sequence[str]) -> list[ItemChange | None]:
        """See `Store.read_items`."""
        return [
            unpack_record(self.address, record) if record else None
            for _, record in self._items(ids)
        ]

    def item_numbers(self, ids: Sequence[str]) -> list[int | None]:
        """See `Store.item_numbers`."""
        return [None if number is None else int(number) for number, _ in self._items(ids)]

    def changes(self, after: int, limit: int = 1000) -> list[ItemChange]:
        """See `Store.changes`."""
        check_limit(limit)
        return self._read([], after, limit)[1]

    def position(self) -> int:
        """See `Store.position`."""
        return int(self._link.call("GET", self._link.key("position"), again=True) or 0)

    def events_after(self, seq: int, limit: int = 10_000) -> tuple[int, NDArray[np.int64]]:
        """See `Store.events_after`; only the newest `log_events` are there."""
        check_limit(limit)
        key = self._link.key("events")
        rows = self._link.call("XRANGE", key, f"({seq}-0", "+", "COUNT", limit, again=True)
        events = [unpack_event(self.address, fields[1]) for _, fields in rows]
        table = np.array([(e.item_number, e.time_micros) for e in events], np.int64).reshape(-1, 2)
        return (int(rows[-1][0].split(b"-")[0]) if rows else seq), table

    def seed(self, release: Release, progress: Progress | None = None) -> bool:
        """See `Store.seed`; rows are staged first, and then made visible in one step."""
        return Seeding(self._link, release, progress).run()

    def check(self) -> None:
        """See `Store.check`: the server's settings, and a write of nothing."""
        self._link.check()

    def close(self) -> None:
        """See `Store.close`."""
        self._link.close()

    def _read(
        self, ids: Sequence[str], after: int, limit: int
    ) -> tuple[list[UserState], list[ItemChange]]:
        keys, given = [*_USERS, "positions", "catalogue"], [after, limit, *ids]
        profiles, histories, records = self._link.run(scripts.READ, keys, given, again=True)
        rows = zip(ids, profiles, histories, strict=True)
        users = [unpack_user(self.address, *row) for row in rows]
        return users, [unpack_record(self.address, record) for record in records]

    def _items(self, ids: Sequence[str]) -> list[tuple[bytes | None, bytes | None]]:
        found: list[tuple[bytes | None, bytes | None]] = []
        for start in range(0, len(ids), _CHUNK):
            chunk = list(ids[start : start + _CHUNK])
            keys = ["numbers", "more:numbers", "catalogue"]
            answer = self._link.run(scripts.ITEMS, keys, chunk, again=True)
            found += zip(*answer, strict=True)
        return found

    def _put_users(self, changes: Mapping[str, Mapping[str, str]]) -> int | None:
        """Store the attributes, or return None when another writer was faster."""
        ids, given = list(changes), []
        for start in range(0, len(ids), _CHUNK):
            chunk = ids[start : start + _CHUNK]
            keys, asked = [*_USERS, "positions", "catalogue"], [0, 0, *chunk]
            profiles = self._link.run(scripts.READ, keys, asked, again=True)[0]
            for user_id, profile in zip(chunk, profiles, strict=True):
                known = unpack_user(self.address, user_id, profile, None).attributes
                read, version = version_of(profile)
                merged = {**known, **changes[user_id]}
                given += [user_id, read, pack_profile(user_id, merged, version)]
        return len(ids) if self._link.run(scripts.PUT_USERS, _USERS[:2], given) else None

    def _until_undisturbed(self, attempt: Callable[[], int | None]) -> int:
        """Return what an attempt gives, made again while other writers change what it read."""
        end = time.monotonic() + self._busy_seconds
        pause = 0.0005
        while (done := attempt()) is None:
            if time.monotonic() > end:
                raise Unavailable(
                    f"store {self.address}: other writers changed the same users for "
                    f"{self._busy_seconds} s, nothing was written; try again"
                )
            time.sleep(random.uniform(0, pause))
            pause = min(2 * pause, 0.05)
        return done
