"""Seeding a Redis store: rows are staged in chunks, and then made visible in one step.

Staged rows lie in hashes of this seeding alone, which expire when it dies. The last step, FLIP,
renames them: at the first seed to the live hashes, later to `more:` ones, where reads look after
the live ones, until FOLD has moved them over.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from corerec.errors import FailedPrecondition, Unavailable
from corerec.release import Release
from corerec.store import redis_scripts as scripts
from corerec.store.base import Progress
from corerec.store.redis_link import PATIENCE, Link
from corerec.store.redis_rows import pack_record, pack_row
from corerec.store.seed_rows import (
    HistoryRow,
    LiveRows,
    UserRow,
    behind,
    disagreement,
    fingerprint,
    read_histories,
    read_live,
    read_users,
)

T = TypeVar("T")

_CHUNK = 2000
_FOLDED = 500
_KEPT_SECONDS = 3600
_ATTEMPTS = 20
_ITEMS = ("numbers", "ids", "catalogue", "positions")
_USERS = ("profiles", "histories")
_GROWING = ("numbers", "ids", *_USERS)
"""Where a later seed adds to what is there; the others it brings only to an empty catalogue."""


class Seeding:
    """One seeding of one store with one release."""

    def __init__(self, link: Link, release: Release, progress: Progress | None) -> None:
        self._link, self._release, self._progress = link, release, progress
        self._stage = f"stage:{uuid.uuid4().hex}"
        self._mark = fingerprint(release)

    def run(self) -> bool:
        """Seed, and return whether anything is new. See `Store.seed`."""
        if self._seeded() == self._mark:
            self._fold()
            return False
        try:
            return self._run()
        finally:
            self._forget()

    def _run(self) -> bool:
        users, histories = read_users(self._release), read_histories(self._release)
        live = read_live(self._release)
        changed = None
        for attempt in range(_ATTEMPTS):
            self._fold()
            seeded, free = self._seeded(), self._number("next")
            position = self._number("position")
            try:
                items = self._stage_items(free, quiet=attempt > 0)
                brought = self._stage_live(live, position)
            except FailedPrecondition:
                if (seeded, free) == (self._seeded(), self._number("next")):
                    raise
                self._forget(_ITEMS)  # another process seeded meanwhile: look again
                continue
            if changed is None:  # once: what others write meanwhile stays, whatever is staged
                changed = self._stage_users(*users) + self._stage_histories(*histories)
            highest = max((row[0] for row in live.rows), default=-1) if brought else -1
            free_then = max(free, len(self._release.catalogue), highest + 1)
            answer = self._flip(seeded, free, free_then, live.position if brought else None)
            if answer != b"again":
                self._fold()
                return answer == b"done" and changed + items + brought > 0
            self._forget(_ITEMS)
        raise Unavailable(
            f"store {self._link.name}: its items changed {_ATTEMPTS} times while it was seeded; "
            "try again"
        )

    def _stage_items(self, free: int, *, quiet: bool) -> int:
        """Stage the items that are new and return how many; refuse numbers that disagree."""
        ids = self._release.catalogue.ids
        known = np.zeros(len(ids), np.bool_)
        for numbers in _chunks(range(free)):
            own = self._many("ids", numbers)
            for number, raw in zip(numbers, own, strict=True):
                if number >= len(ids) or raw is None:
                    continue
                if ids[number] != raw.decode():
                    raise disagreement(self._link.name, number, raw.decode(), ids[number])
                known[number] = True
            beyond = [n for n, raw in zip(numbers, own, strict=True) if raw and n >= len(ids)]
            if beyond:  # live items that the release lacks are replayed, others not
                records = self._many("catalogue", beyond)
                for number, record in zip(beyond, records, strict=True):
                    if record is None:
                        own_id = (own[number - numbers[0]] or b"").decode()
                        raise disagreement(self._link.name, number, own_id, None)
        new = np.flatnonzero(~known).tolist()
        pairs = ((number, ids[number]) for number in new)
        return self._stage_numbers(pairs, len(new), quiet=quiet)

    def _stage_numbers(self, pairs: Iterable[tuple[int, str]], total: int, *, quiet: bool) -> int:
        done = 0
        for chunk in _chunks(pairs):
            self._put("ids", ((number, item_id) for number, item_id in chunk))
            new = self._put("numbers", ((item_id, number) for number, item_id in chunk))
            if new != len(chunk):
                raise FailedPrecondition(
                    f"an item among numbers {chunk[0][0]} to {chunk[-1][0]} of the release has "
                    f"another number in store {self._link.name}, and an item never changes its "
                    "number; use another store for this release"
                )
            done += len(chunk)
            if not quiet:
                self._tell("items", done, total)
        return done

    def _stage_live(self, live: LiveRows, position: int) -> int:
        """Stage the live items of a release for an empty catalogue, or make sure they agree."""
        if live.position > position > 0:
            raise behind(self._link.name, live.position, position)
        bring = live.position > position
        ids = self._release.catalogue.ids
        for rows in _chunks(live.rows):
            own = self._many("ids", [row[0] for row in rows])
            for (number, item_id, *_), raw in zip(rows, own, strict=True):
                mine = raw.decode() if raw else None
                if mine is None and number < len(ids):
                    mine = ids[number]
                if mine != item_id and not (mine is None and bring):
                    raise disagreement(self._link.name, number, mine, item_id)
            if bring:
                self._bring(rows, len(ids))
        return len(live.rows) if bring else 0

    def _bring(self, rows: list[tuple[int, str, int, int, bytes]], count: int) -> None:
        fresh = [(number, item_id) for number, item_id, *_ in rows if number >= count]
        self._put("ids", fresh)
        self._put("numbers", [(item_id, number) for number, item_id in fresh])
        records = [pack_record(n, i, at, gone, payload) for n, i, at, gone, payload in rows]
        self._put("catalogue", zip((row[0] for row in rows), records, strict=True))
        scores = [value for row in rows for value in (row[2], row[0])]
        positions = self._link.key(self._staged("positions"))
        self._link.call("ZADD", positions, *scores, seconds=PATIENCE)
        self._link.call("EXPIRE", positions, _KEPT_SECONDS, seconds=PATIENCE)

    def _stage_users(self, total: int, rows: Iterable[UserRow]) -> int:
        packed = ((user_id, pack_row(user_id, text.encode())) for user_id, text, _ in rows)
        return self._stage_rows("profiles", "users", packed, total)

    def _stage_histories(self, total: int, rows: Iterable[HistoryRow]) -> int:
        packed = ((u, pack_row(u, items + times)) for u, items, times, *_ in rows)
        return self._stage_rows("histories", "histories", packed, total)

    def _stage_rows(
        self, name: str, what: str, rows: Iterable[tuple[str, bytes]], total: int
    ) -> int:
        done = new = 0
        for chunk in _chunks(rows):
            new += self._put(name, chunk)
            done += len(chunk)
            self._tell(what, done, total)
        return new

    def _put(self, name: str, pairs: Iterable[tuple[Any, Any]]) -> int:
        """Stage pairs of a hash and return how many are new."""
        given = [value for pair in pairs for value in pair]
        if not given:
            return 0
        keys = [name, self._staged(name)]
        new = self._link.run(scripts.STAGE, keys, [_KEPT_SECONDS, *given], seconds=PATIENCE)
        return int(new)

    def _flip(self, seeded: str, free: int, free_then: int, position: int | None) -> bytes:
        """Make everything visible; answer done, already or again."""
        keys = ["seeded", "next", "position"]
        keys += [key for name in ("catalogue", "positions") for key in (name, self._staged(name))]
        keys += [k for name in _GROWING for k in (name, f"more:{name}", self._staged(name))]
        then = "" if position is None else position
        given = [self._mark, self._release.id, seeded, free, free_then, then]
        answer: bytes = self._link.run(scripts.FLIP, keys, given, seconds=PATIENCE)
        return answer

    def _fold(self) -> None:
        """Move what an earlier seed brought to where everything else is."""
        for name in _GROWING:
            more = self._link.key(f"more:{name}")
            while self._link.call("EXISTS", more, again=True):
                cursor: Any = 0
                while True:
                    keys, given = [name, f"more:{name}"], [cursor, _FOLDED]
                    cursor = self._link.run(scripts.FOLD, keys, given, seconds=PATIENCE)
                    if int(cursor) == 0:
                        break

    def _forget(self, names: Iterable[str] = (*_ITEMS, *_USERS)) -> None:
        """Drop what is still staged; it would expire, but takes memory until then."""
        with suppress(Unavailable):
            staged = [self._link.key(self._staged(name)) for name in names]
            self._link.call("UNLINK", *staged, seconds=PATIENCE)

    def _seeded(self) -> str:
        raw = self._link.call("HGET", self._link.key("seeded"), "mark", again=True)
        return raw.decode() if raw else ""

    def _number(self, name: str) -> int:
        return int(self._link.call("GET", self._link.key(name), again=True) or 0)

    def _many(self, name: str, fields: Sequence[int]) -> list[bytes | None]:
        key = self._link.key(name)
        found: list[bytes | None] = self._link.call("HMGET", key, *fields, seconds=PATIENCE)
        return found

    def _staged(self, name: str) -> str:
        return f"{self._stage}:{name}"

    def _tell(self, what: str, done: int, total: int) -> None:
        if self._progress:
            self._progress(what, done, total)


def _chunks(values: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(values)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk
