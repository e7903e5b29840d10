"""SqliteStore: the default store, one file in WAL mode with nothing to install.

Several processes of one machine may share the file. For several machines there is another store.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from corerec.errors import FailedPrecondition, NotFound, Unavailable
from corerec.release import Release
from corerec.store.base import Event, Progress, UserState, check_attributes, check_event
from corerec.store.database import Database
from corerec.store.rows import EMPTY, checksum, merge, pack, pack_attributes, unpack
from corerec.store.seed_rows import fingerprint, read_histories, read_users

T = TypeVar("T")

# Statements are asked for with one of these numbers of ids, so that SQLite keeps them prepared.
_READ_SIZES = (1, 8, 64, 512)
_SEED_CHUNK = 20_000
_READ = """
SELECT u.user_id, u.attributes, u.crc, h.items, h.times, h.crc
FROM users u LEFT JOIN histories h ON h.user_id = u.user_id WHERE u.user_id IN ({marks})
"""
_READS = {size: _READ.format(marks=",".join("?" * size)) for size in _READ_SIZES}
_PUT_HISTORY = """
INSERT INTO histories VALUES (?, ?, ?, ?, ?) ON CONFLICT (user_id) DO UPDATE SET
items = excluded.items, times = excluded.times, length = excluded.length, crc = excluded.crc
"""
_PUT_USER = """
INSERT INTO users VALUES (?, ?, ?)
ON CONFLICT (user_id) DO UPDATE SET attributes = excluded.attributes, crc = excluded.crc
"""
_NEW_USER = "INSERT INTO users VALUES (?, ?, ?) ON CONFLICT (user_id) DO NOTHING"
_NEW_HISTORY = "INSERT INTO histories VALUES (?, ?, ?, ?, ?) ON CONFLICT (user_id) DO NOTHING"
_NEW_EVENT = """
INSERT INTO events (user_id, item_id, item_number, time_micros, event_type, event_id)
VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
_NO_PROFILE = "SELECT user_id FROM histories WHERE user_id NOT IN (SELECT user_id FROM users)"
_META = "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"


class SqliteStore:
    """A store in one SQLite file; see `Store` for what its methods promise."""

    def __init__(
        self, path: Path, *, busy_seconds: float = 2.0, check_file: bool | None = None
    ) -> None:
        """Open the store in `path`, or make an empty one.

        `busy_seconds`: how long a call waits for its turn before it raises Unavailable.
        `check_file`: whether all pages are checked now for damage, about 3 s per GB; None means
        when the file has at most 64 MB.

        Raises:
            Unavailable: the file cannot be opened, is damaged or is not a store.
        """
        self._database = Database(Path(path), busy_seconds=busy_seconds, check_file=check_file)

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self._database.path

    def read_users(self, ids: Sequence[str]) -> list[UserState]:
        """See `Store.read_users`."""
        found: dict[str, UserState] = {}
        with self._database.reading() as link:
            for chunk in _chunks(ids, _READ_SIZES[-1]):
                size = next(size for size in _READ_SIZES if size >= len(chunk))
                asked = chunk + chunk[-1:] * (size - len(chunk))
                for row in link.execute(_READS[size], asked):
                    found[row[0]] = self._state(row)
        return [found.get(i) or UserState(i, {}, EMPTY, EMPTY, known=False) for i in ids]

    def append_events(self, events: Sequence[Event]) -> int:
        """See `Store.append_events`."""
        for event in events:
            check_event(event)
        if not events:
            return 0
        with self._database.writing() as link:
            self._check_items(link, events)
            new: dict[str, list[tuple[int, int]]] = {}
            for e in events:
                row = (e.user_id, e.item_id, e.item_number, e.time_micros, e.event_type, e.event_id)
                if link.execute(_NEW_EVENT, row).rowcount:
                    new.setdefault(e.user_id, []).append((e.item_number, e.time_micros))
            for user_id, more in new.items():
                self._extend(link, user_id, more)
        return sum(len(more) for more in new.values())

    def put_users(self, rows: Iterable[tuple[str, Mapping[str, str]]]) -> int:
        """See `Store.put_users`."""
        changes = [(user_id, dict(attributes)) for user_id, attributes in rows]
        for user_id, attributes in changes:
            check_attributes(user_id, attributes)
        with self._database.writing() as link:
            for user_id, attributes in changes:
                state = self._one(link, user_id)
                text = pack_attributes({**(state.attributes if state else {}), **attributes})
                link.execute(_PUT_USER, (user_id, text, checksum(user_id, text.encode())))
        return len(changes)

    def seed(self, release: Release, progress: Progress | None = None) -> bool:
        """See `Store.seed`; the whole of it is one transaction."""
        mark = fingerprint(release)
        with self._database.reading() as link:
            if self._seeded(link) == mark:
                return False
        tables = (
            ("users", _NEW_USER, *read_users(release)),
            ("histories", _NEW_HISTORY, *read_histories(release)),
        )
        with self._database.writing() as link:
            if self._seeded(link) == mark:  # another process was faster
                return False
            changed = self._register(link, release.catalogue.ids, progress)
            for name, statement, total, rows in tables:
                changed += _load(link, statement, rows, name, total, progress)
            self._know_all(link)
            link.execute(_META, ("seeded", mark))
            link.execute(_META, ("seeded_release", release.id))
        return changed > 0

    def check(self) -> None:
        """See `Store.check`: one read, and one write that is undone."""
        with self._database.reading() as link:
            link.execute("SELECT 1 FROM users LIMIT 1").fetchone()
        with self._database.writing(commit=False) as link:
            link.execute(_META, ("probe", ""))

    def close(self) -> None:
        """See `Store.close`."""
        self._database.close()

    def _state(self, row: tuple[str, str, int, bytes | None, bytes | None, int]) -> UserState:
        user_id, attributes, user_crc, items, times, history_crc = row
        if checksum(user_id, attributes.encode()) != user_crc:
            raise Unavailable(self._bad_row("profile", user_id))
        if items is None or times is None:
            return UserState(user_id, json.loads(attributes), EMPTY, EMPTY)
        if checksum(user_id, items, times) != history_crc:
            raise Unavailable(self._bad_row("history", user_id))
        return UserState(user_id, json.loads(attributes), unpack(items), unpack(times))

    def _bad_row(self, what: str, user_id: str) -> str:
        return (
            f"store {self.path}: the {what} of user {user_id!r} does not match its checksum; the "
            "file is damaged, restore it from a backup"
        )

    def _one(self, link: sqlite3.Connection, user_id: str) -> UserState | None:
        row = link.execute(_READS[1], (user_id,)).fetchone()
        return self._state(row) if row else None

    def _extend(self, link: sqlite3.Connection, user_id: str, more: list[tuple[int, int]]) -> None:
        state = self._one(link, user_id)
        if state is None:
            link.execute(_NEW_USER, (user_id, "{}", checksum(user_id, b"{}")))
        known = (state.items, state.times) if state else (EMPTY, EMPTY)
        items, times = merge(*known, more)
        columns = pack(items), pack(times)
        row = (user_id, *columns, len(items), checksum(user_id, *columns))
        link.execute(_PUT_HISTORY, row)

    def _check_items(self, link: sqlite3.Connection, events: Sequence[Event]) -> None:
        for item_id, number in {(event.item_id, event.item_number) for event in events}:
            row = link.execute("SELECT number FROM items WHERE id = ?", (item_id,)).fetchone()
            if row is None:
                raise NotFound(f"item_id {item_id!r} is not in the catalogue")
            if row[0] != number:
                raise FailedPrecondition(
                    f"item {item_id!r} has number {row[0]} in store {self.path}, not {number}: the "
                    "release does not belong to this store; use another store file"
                )

    def _register(self, link: sqlite3.Connection, ids: list[str], progress: Progress | None) -> int:
        """Give new ids their numbers and return how many; refuse a catalogue that disagrees."""
        known = 0
        for number, item_id in link.execute("SELECT number, id FROM items ORDER BY number"):
            if number >= len(ids) or ids[number] != item_id:
                got = repr(ids[number]) if number < len(ids) else "no such item"
                raise FailedPrecondition(
                    f"item number {number} is {item_id!r} in store {self.path} but {got} in the "
                    "release, and a number never changes its item; use another store file for "
                    "this release"
                )
            known += 1
        rows = zip(range(known, len(ids)), islice(ids, known, None), strict=True)
        statement = "INSERT INTO items VALUES (?, ?)"
        return _load(link, statement, rows, "items", len(ids) - known, progress)

    @staticmethod
    def _know_all(link: sqlite3.Connection) -> None:
        """Give every user with events a row, also one that the release has no profile of."""
        for (user_id,) in link.execute(_NO_PROFILE).fetchall():
            link.execute(_NEW_USER, (user_id, "{}", checksum(user_id, b"{}")))

    @staticmethod
    def _seeded(link: sqlite3.Connection) -> str | None:
        row = link.execute("SELECT value FROM meta WHERE key = 'seeded'").fetchone()
        return str(row[0]) if row else None


def _load(
    link: sqlite3.Connection,
    statement: str,
    rows: Iterable[tuple[object, ...]],
    what: str,
    total: int,
    progress: Progress | None,
) -> int:
    """Insert rows in chunks, tell how far it is, and return how many were new."""
    done = changed = 0
    iterator = iter(rows)
    while chunk := list(islice(iterator, _SEED_CHUNK)):
        changed += max(0, link.executemany(statement, chunk).rowcount)
        done += len(chunk)
        if progress:
            progress(what, done, total)
    return changed


def _chunks(values: Sequence[T], size: int) -> Iterator[list[T]]:
    for start in range(0, len(values), size):
        yield list(values[start : start + size])
