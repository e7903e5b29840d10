"""Items of the live catalogue, their changes, and how a change lies in a store as bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from corerec.errors import InvalidArgument
from corerec.stages import Float32s
from corerec.store.limits import MAX_ID_BYTES, check_id, check_text

MAX_TITLE_BYTES = 1024
MAX_FIELDS = 64
"""Most attributes, list columns or vector sets of an item, and most values of a list."""
MAX_VECTOR_WIDTH = 8192
MAX_MICROS = 2**63 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One item as its owner describes it."""

    item_id: str
    title: str = ""
    category: str = ""
    creator: str = ""
    born_micros: int = -1
    """When it came to be, microseconds since 1970-01-01 UTC; -1 is unknown."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Single values by column name, numbers as text."""
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Values of list columns by column name."""
    vectors: Mapping[str, Float32s] = field(default_factory=dict)
    """Content vectors (d,) by vector set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemChange:
    """The newest change of one item."""

    position: int
    """Place in the order of changes, > 0; ascending, with gaps where an item changed again."""
    number: int
    item_id: str
    item: Item | None
    """None when it was deleted."""


def check_item(item: Item) -> None:
    """Raise InvalidArgument when an item breaks a limit."""
    check_id(item.item_id, "item_id")
    where = f"item {item.item_id!r}: "
    check_text(item.title, where + "title", MAX_TITLE_BYTES)
    check_text(item.category, where + "category", MAX_ID_BYTES)
    check_text(item.creator, where + "creator", MAX_ID_BYTES)
    if not -1 <= item.born_micros <= MAX_MICROS:
        raise InvalidArgument(f"{where}born_micros must be in [-1, 2^63), got {item.born_micros}")
    for kind in ("attributes", "lists", "vectors"):
        named = getattr(item, kind)
        if len(named) > MAX_FIELDS:
            raise InvalidArgument(
                f"{where}{kind} must number at most {MAX_FIELDS}, got {len(named)}"
            )
        for name in named:
            check_id(name, f"{where}name in {kind}")
    for name, value in item.attributes.items():
        check_text(value, f"{where}attribute {name!r}", MAX_ID_BYTES)
    for name, values in item.lists.items():
        if len(values) > MAX_FIELDS:
            raise InvalidArgument(
                f"{where}list {name!r} must have at most {MAX_FIELDS} values, got {len(values)}"
            )
        for value in values:
            check_text(value, f"{where}a value of list {name!r}", MAX_ID_BYTES)
    for name, vector in item.vectors.items():
        if vector.ndim != 1 or not 1 <= len(vector) <= MAX_VECTOR_WIDTH:
            raise InvalidArgument(
                f"{where}vector {name!r} must have 1 to {MAX_VECTOR_WIDTH} numbers, "
                f"got shape {vector.shape}"
            )
        if not np.isfinite(vector).all():
            raise InvalidArgument(f"{where}vector {name!r} must be finite")


def check_items(items: Sequence[Item]) -> None:
    """Raise InvalidArgument when an item breaks a limit or an id is there twice."""
    seen: set[str] = set()
    for item in items:
        check_item(item)
        if item.item_id in seen:
            raise InvalidArgument(f"item_id {item.item_id!r} must be there once, got it twice")
        seen.add(item.item_id)


def pack_item(item: Item) -> bytes:
    """Return an item as bytes: JSON, vectors as lists of numbers that float32 holds exactly."""
    values: dict[str, Any] = {
        "item_id": item.item_id,
        "title": item.title,
        "category": item.category,
        "creator": item.creator,
        "born_micros": item.born_micros,
        "attributes": dict(item.attributes),
        "lists": {name: list(own) for name, own in item.lists.items()},
        "vectors": {
            name: np.asarray(own, "<f4").tobytes().hex() for name, own in item.vectors.items()
        },
    }
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def unpack_item(raw: bytes) -> Item:
    """Return what `pack_item` packed. Raises ValueError, KeyError when it is not that."""
    values = json.loads(raw)
    return Item(
        item_id=values["item_id"],
        title=values["title"],
        category=values["category"],
        creator=values["creator"],
        born_micros=values["born_micros"],
        attributes=values["attributes"],
        lists={name: tuple(own) for name, own in values["lists"].items()},
        vectors={
            name: np.frombuffer(bytes.fromhex(own), "<f4")
            for name, own in values["vectors"].items()
        },
    )


def finite_number(text: str) -> float | None:
    """Return the number that an attribute's text is, None when it is none."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
