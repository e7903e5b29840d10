"""AttributeTable: from conditions on item attributes to a mask by item number."""

# N items, n that changed

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from corerec.errors import InvalidArgument
from corerec.live.arrays import Growing
from corerec.release import Release
from corerec.retrieval.columns import Column, Mask, Value, column_of
from corerec.stages import Predicate
from corerec.store.catalogue import Item, ItemChange

ATTRIBUTES = "attributes.parquet"
FIELDS = ("title", "category", "creator", "born_micros")
"""Fields of an item that every catalogue has, conditions can be on them too."""
_NO_NAMES = ("item_id", "item_number")
_MASK_BYTES = 256 << 20
_MOST_MASKS = 256

Where = tuple[Predicate, ...]


class AttributeTable:
    """The attributes of a release's items and of those that came since.

    A column is read at its first use. Masks are kept, those used last; a change is written into
    them, so they stay right without being made anew. Not safe for threads.
    """

    def __init__(self, path: Path, names: Sequence[str], count: int) -> None:
        """Read columns `names` of the Parquet file `path`, row i is item number i of `count`."""
        self._path, self._count = path, count
        self._stored = tuple(names)
        self._names = dict.fromkeys([*FIELDS, *names])
        self._columns: dict[str, Column] = {}
        self._live: dict[int, Item | None] = {}
        self._masks: OrderedDict[Where, Growing[np.bool_]] = OrderedDict()
        self.hits = 0
        """Conditions whose mask was there."""
        self.misses = 0
        """Conditions whose mask was made."""

    @classmethod
    def load(cls, release: Release) -> AttributeTable:
        """Return the table of a release; one without attributes has the catalogue's columns."""
        path = release.file(ATTRIBUTES if release.has(ATTRIBUTES) else "catalogue.parquet")
        names = [name for name in pl.read_parquet_schema(path) if name not in _NO_NAMES]
        count = pl.scan_parquet(path).select(pl.len()).collect().item()
        return cls(path, names, int(count))

    @property
    def names(self) -> list[str]:
        """What conditions can be on."""
        return list(self._names)

    def __len__(self) -> int:
        """N: one more than the highest number that is known."""
        return self._count

    def check(self, where: Where) -> None:
        """Raise InvalidArgument, naming the nearest known one, when an attribute is not known."""
        for condition in where:
            if condition.attribute not in self._names:
                near = difflib.get_close_matches(condition.attribute, self._names, n=1, cutoff=0.4)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {sorted(self._names)}"
                raise InvalidArgument(f"unknown attribute {condition.attribute!r}; {hint}")

    def mask(self, where: Where) -> Mask:
        """Return which items (N,) meet every condition; read it, do not write or keep it.

        Raises:
            InvalidArgument: for an unknown attribute, or a condition that its column cannot have.
        """
        kept = self._masks.get(where)
        if kept is not None:
            self._masks.move_to_end(where)
            self.hits += 1
            return kept.values
        self.check(where)
        self.misses += 1
        if len(where) == 1:
            found = self._column(where[0].attribute).test(where[0])
            whole = np.zeros(self._count, np.bool_)
            whole[: len(found)] = found[: self._count]
            # Items beyond a column's end have nothing in it.
            whole[len(found) :] = not _needs(where[0])
        else:
            whole = np.ones(self._count, np.bool_)
            for condition in where:
                whole &= self.mask((condition,))
        return self._keep(where, whole)

    def apply(self, changes: Sequence[ItemChange]) -> None:
        """Take changes of items; names that were not known can be asked for from now on."""
        if not changes:
            return
        numbers = np.unique(np.array([change.number for change in changes], np.int64))
        for change in changes:
            self._live[change.number] = change.item
            if change.item is not None:
                self._names.update(dict.fromkeys([*change.item.attributes, *change.item.lists]))
        self._count = max(self._count, int(numbers[-1]) + 1)
        for name, column in self._columns.items():
            for number in numbers.tolist():
                column.put(number, _value(self._live[number], name))
        for where, kept in self._masks.items():
            kept.grow(self._count)
            kept.values[numbers] = True
            for condition in where:
                kept.values[numbers] &= self._column(condition.attribute).test(condition, numbers)

    def _keep(self, where: Where, mask: Mask) -> Mask:
        kept = self._masks[where] = Growing(mask, False)
        most = min(_MOST_MASKS, max(4, _MASK_BYTES // max(1, self._count)))
        while len(self._masks) > most:
            self._masks.popitem(last=False)
        return kept.values

    def _column(self, name: str) -> Column:
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = self._read(name)
            for number, item in self._live.items():
                column.put(number, _value(item, name))
        return column

    def _read(self, name: str) -> Column:
        if name in self._stored:
            values = pl.read_parquet(self._path, columns=[name])[name]
            if name == "born_micros":
                values = values.cast(pl.Int64).replace({-1: None})
            return column_of(values)
        if name == "born_micros":
            return column_of(pl.Series([None] * self._count, dtype=pl.Int64))
        lists = any(item is not None and name in item.lists for item in self._live.values())
        dtype = pl.List(pl.String) if lists else pl.String()
        return column_of(pl.Series([None] * self._count, dtype=dtype))


def _needs(condition: Predicate) -> bool:
    """Say whether an item must have the attribute."""
    return bool(condition.any_of) or (condition.at_least, condition.at_most) != (None, None)


def _value(item: Item | None, name: str) -> Value:
    if item is None:
        return None
    if name == "born_micros":
        return None if item.born_micros < 0 else float(item.born_micros)
    if name in FIELDS:
        return str(getattr(item, name)) or None
    return item.lists.get(name) or item.attributes.get(name)
