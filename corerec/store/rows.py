"""How users, histories and items lie in a store's rows: as bytes, with a checksum on each row.

SQLite notices a torn page, not a flipped bit inside a value: the checksum does.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from corerec.stages import MAX_HISTORY

Int64s = NDArray[np.int64]

EMPTY: Int64s = np.empty(0, np.int64)
EMPTY.flags.writeable = False


def pack(column: Int64s) -> bytes:
    """Return (H,) numbers as little-endian int64 bytes."""
    return column.astype("<i8", copy=False).tobytes()


def unpack(blob: bytes) -> Int64s:
    """Return the read-only (H,) numbers of little-endian int64 bytes."""
    return np.frombuffer(blob, "<i8")


def checksum(key: str, *parts: bytes) -> int:
    """Return the CRC-32 of the row of a user or item."""
    value = zlib.crc32(key.encode())
    for part in parts:
        value = zlib.crc32(part, value)
    return value


def change_checksum(item_id: str, number: int, position: int, deleted: int, blob: bytes) -> int:
    """Return the CRC-32 of an item's row."""
    return checksum(item_id, struct.pack("<qqB", number, position, deleted & 255), blob)


def event_checksum(
    user_id: str, item_id: str, number: int, time_micros: int, event_type: str, event_id: str
) -> int:
    """Return the CRC-32 of an event's row."""
    texts = (item_id.encode(), event_type.encode(), event_id.encode())
    # The lengths, so that no byte may go from one text to the next.
    numbers = struct.pack("<qq3H", number, time_micros, *map(len, texts))
    return checksum(user_id, numbers, *texts)


def pack_attributes(attributes: Mapping[str, str]) -> str:
    """Return attributes as JSON."""
    return json.dumps(dict(attributes), ensure_ascii=False, separators=(",", ":"))


def merge(items: Int64s, times: Int64s, more: list[tuple[int, int]]) -> tuple[Int64s, Int64s]:
    """Return a history with `more`, pairs of (item number, time), each at its place in time.

    Of equal times the one that came first stays first; the newest 1000 are kept.
    """
    added = np.array(more, np.int64).reshape(-1, 2)
    items = np.concatenate([items, added[:, 0]])
    times = np.concatenate([times, added[:, 1]])
    order = np.argsort(times, kind="stable")[-MAX_HISTORY:]
    return items[order], times[order]
