"""Seeding a SQLite store with a release: one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np

from corerec.release import Release
from corerec.store.base import Progress
from corerec.store.database import Database
from corerec.store.rows import checksum
from corerec.store.seed_rows import disagreement, fingerprint, read_histories, read_live, read_users
from corerec.store.sqlite_items import load_live

META = "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
NEW_USER = "INSERT INTO users VALUES (?, ?, ?) ON CONFLICT (user_id) DO NOTHING"

_CHUNK = 20_000
_NEW_HISTORY = "INSERT INTO histories VALUES (?, ?, ?, ?, ?) ON CONFLICT (user_id) DO NOTHING"
_NO_PROFILE = "SELECT user_id FROM histories WHERE user_id NOT IN (SELECT user_id FROM users)"
_NUMBERS = """
SELECT i.number, i.id, c.number IS NOT NULL
FROM items i LEFT JOIN catalogue c ON c.number = i.number ORDER BY i.number
"""


def seed(database: Database, release: Release, progress: Progress | None) -> bool:
    """Load what is new of a release and return whether anything was. See `Store.seed`."""
    mark = fingerprint(release)
    with database.reading() as link:
        if _seeded(link) == mark:
            return False
    tables = (
        ("users", NEW_USER, *read_users(release)),
        ("histories", _NEW_HISTORY, *read_histories(release)),
    )
    live = read_live(release)
    with database.writing() as link:
        if _seeded(link) == mark:  # another process was faster
            return False
        changed = _register(link, database.path, release.catalogue.ids, progress)
        changed += load_live(link, database.path, live)
        for name, statement, total, rows in tables:
            changed += _load(link, statement, rows, name, total, progress)
        _know_all(link)
        link.execute(META, ("seeded", mark))
        link.execute(META, ("seeded_release", release.id))
    return changed > 0


def _register(
    link: sqlite3.Connection, path: Path, ids: list[str], progress: Progress | None
) -> int:
    """Give new ids their numbers and return how many; refuse a catalogue that disagrees."""
    known = np.zeros(len(ids), np.bool_)
    for number, item_id, live in link.execute(_NUMBERS):
        if number < len(ids) and ids[number] == item_id:
            known[number] = True
        elif number < len(ids) or not live:  # a live item that the release lacks is replayed
            other = ids[number] if number < len(ids) else None
            raise disagreement(path, number, item_id, other)
    new = np.flatnonzero(~known).tolist()
    rows = ((number, ids[number]) for number in new)
    return _load(link, "INSERT INTO items VALUES (?, ?)", rows, "items", len(new), progress)


def _know_all(link: sqlite3.Connection) -> None:
    """Give every user with events a row, also one that the release has no profile of."""
    for (user_id,) in link.execute(_NO_PROFILE).fetchall():
        link.execute(NEW_USER, (user_id, "{}", checksum(user_id, b"{}")))


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
    while chunk := list(islice(iterator, _CHUNK)):
        changed += max(0, link.executemany(statement, chunk).rowcount)
        done += len(chunk)
        if progress:
            progress(what, done, total)
    return changed
