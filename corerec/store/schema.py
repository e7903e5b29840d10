"""The tables of a SQLite store, version by version."""

from __future__ import annotations

SCHEMA_VERSION = 2

_VERSION_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE items (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE);
CREATE TABLE users (user_id TEXT PRIMARY KEY, attributes TEXT NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id TEXT NOT NULL,
    item_id TEXT NOT NULL,
    item_number INTEGER NOT NULL,
    time_micros INTEGER NOT NULL,
    event_type TEXT NOT NULL,
    event_id TEXT NOT NULL
);
CREATE UNIQUE INDEX events_once ON events (user_id, event_id) WHERE event_id != '';
-- The newest events of a user as columns: little-endian int64, ordered by time.
CREATE TABLE histories (
    user_id TEXT PRIMARY KEY,
    items BLOB NOT NULL,
    times BLOB NOT NULL,
    length INTEGER NOT NULL,
    crc INTEGER NOT NULL
);
"""

_VERSION_2 = """
-- Every item that was ever upserted, at its newest. The order of changes is that of position.
CREATE TABLE catalogue (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    position INTEGER NOT NULL UNIQUE,
    deleted INTEGER NOT NULL,
    payload BLOB NOT NULL,
    crc INTEGER NOT NULL
);
-- NULL where version 1 stored the event.
ALTER TABLE events ADD COLUMN crc INTEGER;
"""

STEPS = {0: _VERSION_1, 1: _VERSION_2}
"""What turns a store of one version into the next; version 0 is an empty file."""
