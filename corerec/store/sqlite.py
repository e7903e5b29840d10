"""SqliteStore: the default store, one file in WAL mode with nothing to install.

Several processes of one machine may share the file. For several machines there is another store.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from corerec.errors import FailedPrecondition, NotFound, Unavailable
from corerec.release import Release
from corerec.store import sqlite_items
from corerec.store.base import Event, Progress, UserState, check_attributes, check_event
from corerec.store.catalogue import Item, ItemChange, check_items
from corerec.store.database import Database
from corerec.store.limits import check_id, check_limit
from corerec.store.rows import EMPTY, checksum, merge, pack, pack_attributes, unpack
from corerec.store.seed_rows import disagreement, fingerprint, read_histories, read_live, read_users

_SEED_CHUNK = 20_000
_READ = """
SELECT u.user_id, u.attributes, u.crc, h.items, h.times, h.crc
FROM users u LEFT JOIN histories h ON h.user_id = u.user_id WHERE u.user_id IN ({marks})
"""
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
_EVENTS = "SELECT seq, item_number, time_micros FROM events WHERE seq > ? ORDER BY seq LIMIT ?"
_NO_PROFILE = "SELECT user_id FROM histories WHERE user_id NOT IN (SELECT user_id FROM users)"
_NUMBERS = """
SELECT i.number, i.id, c.number IS NOT NULL
FROM items i LEFT JOIN catalogue c ON c.number = i.number ORDER BY i.number
"""
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
        with self._database.reading() as link:
            return self._users(link, ids)

    def read_users_and_changes(
        self, ids: Sequence[str], after: int, limit: int = 1000
    ) -> tuple[list[UserState], list[ItemChange]]:
        """See `Store.read_users_and_changes`."""
        with self._database.reading() as link, _snapshot(link):
            users = self._users(link, ids)
            rows = sqlite_items.after(link, after, limit)
        return users, [sqlite_items.change_of(self.path, row) for row in rows]

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

    def upsert_items(self, items: Sequence[Item]) -> list[ItemChange]:
        """See `Store.upsert_items`."""
        check_items(items)
        if not items:
            return []
        with self._database.writing() as link:
            return sqlite_items.upsert(link, items)

    def delete_items(self, ids: Sequence[str]) -> list[ItemChange]:
        """See `Store.delete_items`."""
        for item_id in ids:
            check_id(item_id, "item_id")
        if not ids:
            return []
        with self._database.writing() as link:
            return sqlite_items.delete(link, self.path, ids)

    def read_items(self, ids: Sequence[str]) -> list[ItemChange | None]:
        """See `Store.read_items`."""
        with self._database.reading() as link:
            found = sqlite_items.read(link, self.path, ids)
        return [found.get(item_id) for item_id in ids]

    def item_numbers(self, ids: Sequence[str]) -> list[int | None]:
        """See `Store.item_numbers`."""
        with self._database.reading() as link:
            found = sqlite_items.find_numbers(link, ids)
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
        table = np.array(rows, np.int64).reshape(-1, 3)
        return (int(table[-1, 0]) if rows else seq), table[:, 1:]

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
        live = read_live(release)
        with self._database.writing() as link:
            if self._seeded(link) == mark:  # another process was faster
                return False
            changed = self._register(link, release.catalogue.ids, progress)
            changed += sqlite_items.load_live(link, self.path, live)
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

    def _users(self, link: sqlite3.Connection, ids: Sequence[str]) -> list[UserState]:
        found = {row[0]: self._state(row) for row in sqlite_items.select(link, _READ, ids)}
        return [found.get(i) or UserState(i, {}, EMPTY, EMPTY, known=False) for i in ids]

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
        rows = list(sqlite_items.select(link, _READ, [user_id]))
        return self._state(rows[0]) if rows else None

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
                    "release does not belong to this store; use another store"
                )

    def _register(self, link: sqlite3.Connection, ids: list[str], progress: Progress | None) -> int:
        """Give new ids their numbers and return how many; refuse a catalogue that disagrees."""
        known = np.zeros(len(ids), np.bool_)
        for number, item_id, live in link.execute(_NUMBERS):
            if number < len(ids) and ids[number] == item_id:
                known[number] = True
            elif number < len(ids) or not live:  # a live item that the release lacks is replayed
                other = ids[number] if number < len(ids) else None
                raise disagreement(self.path, number, item_id, other)
        new = np.flatnonzero(~known).tolist()
        rows = ((number, ids[number]) for number in new)
        return _load(link, "INSERT INTO items VALUES (?, ?)", rows, "items", len(new), progress)

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


@contextmanager
def _snapshot(link: sqlite3.Connection) -> Iterator[None]:
    """Let all statements within see the store as it was at the first."""
    link.execute("BEGIN")
    try:
        yield
    finally:
        if link.in_transaction:
            link.execute("ROLLBACK")
