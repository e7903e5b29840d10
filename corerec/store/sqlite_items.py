"""The live catalogue in a SQLite store: numbers, positions, changes. The caller holds the link."""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

from corerec.errors import Unavailable
from corerec.store.catalogue import Item, ItemChange, pack_item, unpack_item
from corerec.store.limits import check_limit
from corerec.store.rows import change_checksum
from corerec.store.seed_rows import LiveRows, behind, disagreement

T = TypeVar("T")
Row = tuple[int, str, int, int, bytes, int]

# Statements are asked for with one of these numbers of ids, so that SQLite keeps them prepared.
READ_SIZES = (1, 2, 4, 8, 64, 512)

_COLUMNS = "number, id, position, deleted, payload, crc"
_PUT = """
INSERT INTO catalogue VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE SET
position = excluded.position, deleted = excluded.deleted,
payload = excluded.payload, crc = excluded.crc
"""
AFTER = f"SELECT {_COLUMNS} FROM catalogue WHERE position > ? ORDER BY position LIMIT ?"
_ONE = f"SELECT {_COLUMNS} FROM catalogue WHERE id IN ({{marks}})"
# The index by id and the table: they disagree when one of them is damaged.
_NUMBER = """
SELECT i.id, i.number, t.id = i.id FROM items i LEFT JOIN items t ON t.number = i.number
WHERE i.id IN ({marks})
"""


def upsert(link: sqlite3.Connection, path: Path, items: Sequence[Item]) -> list[ItemChange]:
    """Put checked items, give new ids their numbers, and return the changes."""
    numbers = find_numbers(link, path, [item.item_id for item in items])
    (free,) = link.execute("SELECT coalesce(max(number), -1) + 1 FROM items").fetchone()
    first, changes = last_position(link) + 1, []
    for position, item in enumerate(items, first):
        number = numbers.get(item.item_id)
        if number is None:
            number, free = free, free + 1
            link.execute("INSERT INTO items VALUES (?, ?)", (number, item.item_id))
        _put(link, number, item.item_id, position, pack_item(item))
        changes.append(
            ItemChange(position=position, number=number, item_id=item.item_id, item=item)
        )
    return changes


def delete(link: sqlite3.Connection, path: Path, ids: Sequence[str]) -> list[ItemChange]:
    """Delete the items that are there and return their changes."""
    ids = list(dict.fromkeys(ids))
    numbers = find_numbers(link, path, ids)
    gone = {change.item_id for change in read(link, path, ids).values() if change.item is None}
    first, changes = last_position(link) + 1, []
    there = [item_id for item_id in ids if item_id in numbers and item_id not in gone]
    for position, item_id in enumerate(there, first):
        _put(link, numbers[item_id], item_id, position, None)
        changes.append(
            ItemChange(position=position, number=numbers[item_id], item_id=item_id, item=None)
        )
    return changes


def read(link: sqlite3.Connection, path: Path, ids: Sequence[str]) -> dict[str, ItemChange]:
    """Return the newest change of each id that has one."""
    return {row[1]: change_of(path, row) for row in select(link, _ONE, ids)}


def find_numbers(link: sqlite3.Connection, path: Path, ids: Sequence[str]) -> dict[str, int]:
    """Return the number of each id that has one. Raises Unavailable when one is damaged."""
    found = {}
    for item_id, number, sound in select(link, _NUMBER, ids):
        if not sound:
            raise Unavailable(_damaged(path, item_id, number))
        found[item_id] = number
    return found


def after(link: sqlite3.Connection, position: int, limit: int) -> list[Row]:
    """Return the rows of at most `limit` items that changed after a position, by position."""
    check_limit(limit)
    return link.execute(AFTER, (position, limit)).fetchall()


def last_position(link: sqlite3.Connection) -> int:
    """Return the position of the newest change, 0 when there was none."""
    # A change only ever raises an item's position, so the highest is the newest.
    (position,) = link.execute("SELECT coalesce(max(position), 0) FROM catalogue").fetchone()
    return int(position)


def change_of(path: Path, row: Row) -> ItemChange:
    """Return a row of the table as a change. Raises Unavailable when it is damaged."""
    number, item_id, position, deleted, payload, crc = row
    try:
        if change_checksum(item_id, number, position, deleted, payload) != crc:
            raise ValueError
        item = None if deleted else unpack_item(payload)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise Unavailable(_damaged(path, item_id, number)) from None
    return ItemChange(position=position, number=number, item_id=item_id, item=item)


def load_live(link: sqlite3.Connection, path: Path, live: LiveRows) -> int:
    """Take the live items of a release into an empty catalogue, or make sure that they agree.

    Returns how many are new. Raises FailedPrecondition when the store has other items, or is
    behind the release.
    """
    position = last_position(link)
    known = dict(link.execute("SELECT number, id FROM items")) if live.rows else {}
    bring = live.position > position
    if bring and position:
        raise behind(path, live.position, position)
    for number, item_id, at, deleted, payload in live.rows:
        if bring and number not in known:
            link.execute("INSERT INTO items VALUES (?, ?)", (number, item_id))
        elif known.get(number) != item_id:
            raise disagreement(path, number, known.get(number), item_id)
        if bring:
            crc = change_checksum(item_id, number, at, deleted, payload)
            link.execute(_PUT, (number, item_id, at, deleted, payload, crc))
    return len(live.rows) if bring else 0


def select(
    link: sqlite3.Connection, statement: str, ids: Sequence[str], own: Sequence[int] = ()
) -> Iterator[tuple]:  # type: ignore[type-arg]
    """Yield the rows of a statement with `{marks}` for ids, asked in chunks; `own` comes last."""
    for chunk in chunks(ids, READ_SIZES[-1]):
        size = READ_SIZES[bisect_left(READ_SIZES, len(chunk))]
        asked = chunk + chunk[-1:] * (size - len(chunk))
        yield from link.execute(_marked(statement, size), [*asked, *own])


@cache  # statements are few, and so are sizes
def _marked(statement: str, size: int) -> str:
    return statement.format(marks=",".join("?" * size))


def chunks(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the values in lists of at most `size`."""
    listed = list(values)
    for start in range(0, len(listed), size):
        yield listed[start : start + size]


def _damaged(path: Path, item_id: str, number: int) -> str:
    return (
        f"store {path}: item {item_id!r}, number {number}, does not match its checksum; the file "
        "is damaged, restore it from a backup"
    )


def _put(
    link: sqlite3.Connection, number: int, item_id: str, position: int, payload: bytes | None
) -> None:
    deleted, blob = int(payload is None), payload or b""
    crc = change_checksum(item_id, number, position, deleted, blob)
    link.execute(_PUT, (number, item_id, position, deleted, blob, crc))
