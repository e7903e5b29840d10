"""SqliteStore: the default store, one file in WAL mode with nothing to install.

Several processes of one machine may share the file. For several machines there is another store.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from corerec.errors import FailedPrecondition, NotFound, Unavailable
from corerec.release import Release
from corerec.store import sqlite_items, sqlite_seed
from corerec.store.base import Event, Progress, UserState, check_attributes, check_event
from corerec.store.catalogue import Item, ItemChange, check_items
from corerec.store.database import Database
from corerec.store.limits import check_id, check_limit
from corerec.store.rows import EMPTY, checksum, event_checksum, merge, pack, pack_attributes, unpack

_Row = tuple[str, str, int, bytes | None, bytes | None, int]

_READ = """
SELECT u.user_id, u.attributes, u.crc, h.items, h.times, h.crc
FROM users u LEFT JOIN histories h ON h.user_id = u.user_id WHERE u.user_id IN ({marks})
"""
# One statement sees the store as it is at one moment, and the interpreter's lock is let go once a
# row and statement: a thread that reads beside a busy event loop waits for it each time.
_READ_WITH_CHANGES = f"""
SELECT 0, * FROM ({_READ}) UNION ALL SELECT 1, * FROM ({sqlite_items.AFTER})
"""
_PUT_HISTORY = """
INSERT INTO histories VALUES (?, ?, ?, ?, ?) ON CONFLICT (user_id) DO UPDATE SET
items = excluded.items, times = excluded.times, length = excluded.length, crc = excluded.crc
"""
_PUT_USER = """
INSERT INTO users VALUES (?, ?, ?)
ON CONFLICT (user_id) DO UPDATE SET attributes = excluded.attributes, crc = excluded.crc
"""
_NEW_EVENT = """
INSERT INTO events (user_id, item_id, item_number, time_micros, event_type, event_id, crc)
VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
_EVENTS = """
SELECT seq, crc, user_id, item_id, item_number, time_micros, event_type, event_id
FROM events WHERE seq > ? ORDER BY seq LIMIT ?
"""


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
        with self._database.reading() as link:
            return self._users(link, ids)

    def read_users_and_changes(
        self, ids: Sequence[str], after: int, limit: int = 1000
    ) -> tuple[list[UserState], list[ItemChange]]:
        """See `Store.read_users_and_changes`."""
        check_limit(limit)
        known: list[_Row] = []
        rows: list[sqlite_items.Row] = []
        with self._database.reading() as link:
            if 0 < len(ids) <= sqlite_items.READ_SIZES[-1]:
                own = (after, limit)
                for row in sqlite_items.select(link, _READ_WITH_CHANGES, ids, own):
                    (rows if row[0] else known).append(row[1:])
                rows.sort(key=itemgetter(2))  # by position: a compound promises no order
            else:
                link.execute("BEGIN")  # all statements see the store as it is at the first
                try:
                    known = list(sqlite_items.select(link, _READ, ids))
                    rows = sqlite_items.after(link, after, limit)
                finally:
                    if link.in_transaction:
                        link.execute("ROLLBACK")
        return self._states(known, ids), [sqlite_items.change_of(self.path, row) for row in rows]

    def append_events(self, events: Sequence[Event]) -> int:
        """See `Store.append_events`."""
        for event in events:
            check_event(event)
        if not events:
            return 0
        return self._database.write(lambda link: self._append(link, events))

    def put_users(self, rows: Iterable[tuple[str, Mapping[str, str]]]) -> int:
        """See `Store.put_users`."""
        changes = [(user_id, dict(attributes)) for user_id, attributes in rows]
        for user_id, attributes in changes:
            check_attributes(user_id, attributes)
        self._database.write(lambda link: self._put_users(link, changes))
        return len(changes)

    def upsert_items(self, items: Sequence[Item]) -> list[ItemChange]:
        """See `Store.upsert_items`."""
        check_items(items)
        if not items:
            return []
        return self._database.write(lambda link: sqlite_items.upsert(link, self.path, items))

    def delete_items(self, ids: Sequence[str]) -> list[ItemChange]:
        """See `Store.delete_items`."""
        for item_id in ids:
            check_id(item_id, "item_id")
        if not ids:
            return []
        return self._database.write(lambda link: sqlite_items.delete(link, self.path, ids))

    def read_items(self, ids: Sequence[str]) -> list[ItemChange | None]:
        """See `Store.read_items`."""
        with self._database.reading() as link:
            found = sqlite_items.read(link, self.path, ids)
        return [found.get(item_id) for item_id in ids]

    def item_numbers(self, ids: Sequence[str]) -> list[int | None]:
        """See `Store.item_numbers`."""
        with self._database.reading() as link:
            found = sqlite_items.find_numbers(link, self.path, ids)
        return [found.get(item_id) for item_id in ids]

    def changes(self, after: int, limit: int = 1000) -> list[ItemChange]:
        """See `Store.changes`."""
        with self._database.reading() as link:
            rows = sqlite_items.after(link, after, limit)
        return [sqlite_items.change_of(self.path, row) for row in rows]

    def position(self) -> int:
        """See `Store.position`."""
        with self._database.reading() as link:
            return sqlite_items.last_position(link)

    def events_after(self, seq: int, limit: int = 10_000) -> tuple[int, NDArray[np.int64]]:
        """See `Store.events_after`."""
        check_limit(limit)
        with self._database.reading() as link:
            rows = link.execute(_EVENTS, (seq, limit)).fetchall()
        for place, crc, *event in rows:
            if crc not in (None, event_checksum(*event)):  # None: stored by version 1
                raise Unavailable(self._bad_row(f"event {place}", event[0]))
        table = np.array([row[4:6] for row in rows], np.int64).reshape(-1, 2)
        return (rows[-1][0] if rows else seq), table

    def seed(self, release: Release, progress: Progress | None = None) -> bool:
        """See `Store.seed`; the whole of it is one transaction."""
        return sqlite_seed.seed(self._database, release, progress)

    def check(self) -> None:
        """See `Store.check`: one read, and one write that is undone."""
        with self._database.reading() as link:
            link.execute("SELECT 1 FROM users LIMIT 1").fetchone()
        with self._database.writing(commit=False) as link:
            link.execute(sqlite_seed.META, ("probe", ""))

    def close(self) -> None:
        """See `Store.close`."""
        self._database.close()

    def _users(self, link: sqlite3.Connection, ids: Sequence[str]) -> list[UserState]:
        return self._states(sqlite_items.select(link, _READ, ids), ids)

    def _states(self, rows: Iterable[_Row], ids: Sequence[str]) -> list[UserState]:
        found = {row[0]: self._state(row) for row in rows}
        return [found.get(i) or UserState(i, {}, EMPTY, EMPTY, known=False) for i in ids]

    def _state(self, row: _Row) -> UserState:
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
        rows = list(sqlite_items.select(link, _READ, [user_id]))
        return self._state(rows[0]) if rows else None

    def _append(self, link: sqlite3.Connection, events: Sequence[Event]) -> int:
        self._check_items(link, events)
        new: dict[str, list[tuple[int, int]]] = {}
        for e in events:
            row = (e.user_id, e.item_id, e.item_number, e.time_micros, e.event_type, e.event_id)
            if link.execute(_NEW_EVENT, (*row, event_checksum(*row))).rowcount:
                new.setdefault(e.user_id, []).append((e.item_number, e.time_micros))
        for user_id, more in new.items():
            self._extend(link, user_id, more)
        return sum(len(more) for more in new.values())

    def _put_users(
        self, link: sqlite3.Connection, changes: Sequence[tuple[str, Mapping[str, str]]]
    ) -> None:
        for user_id, attributes in changes:
            state = self._one(link, user_id)
            text = pack_attributes({**(state.attributes if state else {}), **attributes})
            link.execute(_PUT_USER, (user_id, text, checksum(user_id, text.encode())))

    def _extend(self, link: sqlite3.Connection, user_id: str, more: list[tuple[int, int]]) -> None:
        state = self._one(link, user_id)
        if state is None:
            link.execute(sqlite_seed.NEW_USER, (user_id, "{}", checksum(user_id, b"{}")))
        known = (state.items, state.times) if state else (EMPTY, EMPTY)
        items, times = merge(*known, more)
        columns = pack(items), pack(times)
        row = (user_id, *columns, len(items), checksum(user_id, *columns))
        link.execute(_PUT_HISTORY, row)

    def _check_items(self, link: sqlite3.Connection, events: Sequence[Event]) -> None:
        numbers = sqlite_items.find_numbers(link, self.path, [e.item_id for e in events])
        for item_id, number in {(event.item_id, event.item_number) for event in events}:
            own = numbers.get(item_id)
            if own is None:
                raise NotFound(f"item_id {item_id!r} is not in the catalogue")
            if own != number:
                raise FailedPrecondition(
                    f"item {item_id!r} has number {own} in store {self.path}, not {number}: the "
                    "release does not belong to this store; use another store"
                )
