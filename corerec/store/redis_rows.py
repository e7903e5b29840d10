"""How users, histories, items and events lie in Redis: bytes with a checksum, little-endian."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

from corerec.errors import Unavailable
from corerec.store.base import Event, UserState
from corerec.store.catalogue import Item, ItemChange, pack_item, unpack_item
from corerec.store.redis_scripts import CHECK_PRIME
from corerec.store.rows import (
    EMPTY,
    Int64s,
    checksum,
    event_checksum,
    pack,
    pack_attributes,
    unpack,
)

# A version, which each write raises by one, and the checksum of the rest.
_ROW = struct.Struct("<QI")
_RECORD = struct.Struct("<QQIBIH")
_EVENT = struct.Struct("<IqqHHBB")
VERSION_BYTES = 8
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, IndexError, struct.error)


def version_of(row: bytes | None) -> tuple[bytes, int]:
    """Return the version of a row as it lies there, b"" for no row, and the next version."""
    if row is None:
        return b"", 1
    return row[:VERSION_BYTES], int.from_bytes(row[:VERSION_BYTES], "little") + 1


def pack_row(user_id: str, body: bytes, version: int = 1) -> bytes:
    """Return a user's row: of a profile the attributes as JSON, of a history items, then times."""
    return _ROW.pack(version, checksum(user_id, body)) + body


def pack_profile(user_id: str, attributes: Mapping[str, str], version: int) -> bytes:
    """Return a user's attributes as a row."""
    return pack_row(user_id, pack_attributes(attributes).encode(), version)


def pack_history(user_id: str, items: Int64s, times: Int64s, version: int) -> bytes:
    """Return a user's history as a row."""
    return pack_row(user_id, pack(items) + pack(times), version)


def unpack_user(
    place: str, user_id: str, profile: bytes | None, history: bytes | None
) -> UserState:
    """Return the state of a user. Raises Unavailable when a row is damaged."""
    known = profile is not None or history is not None
    body = _body(place, "profile", user_id, profile)
    attributes = json.loads(body) if body else {}
    if not (columns := _body(place, "history", user_id, history)):
        return UserState(user_id, attributes, EMPTY, EMPTY, known=known)
    half = len(columns) // 2
    return UserState(user_id, attributes, unpack(columns[:half]), unpack(columns[half:]))


def pack_body(item_id: str, item: Item | None) -> bytes:
    """Return what follows the head of an item's record: deleted, checksum, id, payload."""
    deleted, payload = int(item is None), b"" if item is None else pack_item(item)
    raw = item_id.encode()
    crc = checksum(item_id, bytes([deleted]), payload)
    return struct.pack("<BIH", deleted, crc, len(raw)) + raw + payload


def pack_record(number: int, item_id: str, position: int, deleted: int, payload: bytes) -> bytes:
    """Return a whole record, as a script writes it."""
    raw = item_id.encode()
    crc = checksum(item_id, bytes([deleted]), payload)
    check = (position * 7 + number * 13) % CHECK_PRIME
    return _RECORD.pack(position, number, check, deleted, crc, len(raw)) + raw + payload


def unpack_record(place: str, record: bytes) -> ItemChange:
    """Return a record as a change. Raises Unavailable when it is damaged."""
    number = -1
    try:
        position, number, check, deleted, crc, length = _RECORD.unpack_from(record)
        end = _RECORD.size + length
        item_id, payload = record[_RECORD.size : end].decode(), record[end:]
        if checksum(item_id, bytes([deleted]), payload) != crc:
            raise ValueError
        if (position * 7 + number * 13) % CHECK_PRIME != check:
            raise ValueError
        item = None if deleted else unpack_item(payload)
    except MALFORMED:
        raise Unavailable(
            f"store {place}: the record of item number {number} does not match its checksum; the "
            "data is damaged, restore it from a backup"
        ) from None
    return ItemChange(position=position, number=number, item_id=item_id, item=item)


def pack_event(event: Event) -> bytes:
    """Return an event as a row of the log."""
    texts = [t.encode() for t in (event.user_id, event.item_id, event.event_type, event.event_id)]
    e = event
    crc = event_checksum(
        e.user_id, e.item_id, e.item_number, e.time_micros, e.event_type, e.event_id
    )
    head = _EVENT.pack(crc, event.item_number, event.time_micros, *map(len, texts))
    return head + b"".join(texts)


def unpack_event(place: str, row: bytes) -> Event:
    """Return a row of the log as an event. Raises Unavailable when it is damaged."""
    try:
        crc, number, time_micros, *lengths = _EVENT.unpack_from(row)
        texts, at = [], _EVENT.size
        for length in lengths:
            texts.append(row[at : at + length])
            at += length
        user_id, item_id, kind, event_id = (text.decode() for text in texts)
        if event_checksum(user_id, item_id, number, time_micros, kind, event_id) != crc:
            raise ValueError
    except MALFORMED:
        raise Unavailable(
            f"store {place}: an event of the log does not match its checksum; the data is damaged, "
            "restore it from a backup"
        ) from None
    return Event(user_id, item_id, number, time_micros, kind, event_id)


def _body(place: str, what: str, user_id: str, row: bytes | None) -> bytes:
    if row is None:
        return b""
    body = row[_ROW.size :]
    if len(row) < _ROW.size or _ROW.unpack_from(row)[1] != checksum(user_id, body):
        raise Unavailable(
            f"store {place}: the {what} of user {user_id!r} does not match its checksum; the data "
            "is damaged, restore it from a backup"
        )
    return body
