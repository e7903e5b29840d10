"""Columns of item attributes that answer conditions for all items at once, and that can change."""

# N items, n of them, V distinct texts, c codes

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corerec.errors import InvalidArgument
from corerec.live.arrays import Growing
from corerec.stages import Int64s, Predicate
from corerec.store.catalogue import finite_number

Mask = NDArray[np.bool_]
Value = str | float | tuple[str, ...] | None
"""What an item has in a column; None where it has nothing."""


class Column(Protocol):
    """One attribute of all items."""

    def test(self, condition: Predicate, numbers: Int64s | None = None) -> Mask:
        """Say which items meet a condition: those of `numbers` (n,), or all.

        Raises:
            InvalidArgument: asked of all, when the column can never have what is asked for.
        """
        ...

    def put(self, number: int, value: Value) -> None:
        """Set what one item has, beyond the end too."""
        ...


class Vocabulary:
    """Distinct texts and their codes; -1 is no text."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._rows = {name: row for row, name in enumerate(self._names)}

    def code(self, text: str) -> int:
        """Return the code of a text, which is added when it is new."""
        if (row := self._rows.get(text)) is None:
            row = self._rows[text] = len(self._names)
            self._names.append(text)
        return row

    def test(self, condition: Predicate, codes: NDArray[np.int32]) -> Mask:
        """Say which codes (c,) are of texts that meet a condition."""
        if len(codes) * 4 >= len(self._names):
            return _meets(condition, self._names, self._rows)[codes]
        used, places = np.unique(codes, return_inverse=True)
        names = [self._names[code] for code in used.tolist() if code >= 0]
        table = _meets(condition, names, {name: row for row, name in enumerate(names)})
        return (table if len(names) == len(used) else np.roll(table, 1))[places]

    def check(self, condition: Predicate) -> None:
        """Raise InvalidArgument when a range is asked of texts of which none is a number."""
        if not _ranged(condition) or not self._names:
            return
        if all(finite_number(name) is None for name in self._names):
            raise InvalidArgument(
                f"at_least and at_most need numbers, {condition.attribute!r} has texts "
                f"such as {self._names[0]!r}"
            )


class TextColumn:
    """One text an item; a range holds for texts that are numbers."""

    def __init__(self, texts: pl.Series) -> None:
        self._texts, codes = _coded(texts)
        self._codes = Growing(codes, -1)

    def test(self, condition: Predicate, numbers: Int64s | None = None) -> Mask:
        """See Column."""
        if numbers is None:
            self._texts.check(condition)
        codes = self._codes.values
        return self._texts.test(condition, codes if numbers is None else codes[numbers])

    def put(self, number: int, value: Value) -> None:
        """See Column; a list is no text."""
        self._codes.grow(number + 1)
        text = value if isinstance(value, str) else ""
        self._codes.values[number] = self._texts.code(text) if text else -1


class NumberColumn:
    """One number an item."""

    def __init__(self, numbers: NDArray[np.float64]) -> None:
        self._numbers = Growing(numbers, np.nan)

    def test(self, condition: Predicate, numbers: Int64s | None = None) -> Mask:
        """See Column; values are compared as numbers."""
        own = self._numbers.values if numbers is None else self._numbers.values[numbers]
        found = np.ones(len(own), np.bool_)
        if condition.any_of:
            found &= np.isin(own, _as_numbers(condition, condition.any_of))
        if condition.none_of:
            found &= ~np.isin(own, _as_numbers(condition, condition.none_of))
        return found & _in_range(condition, own)

    def put(self, number: int, value: Value) -> None:
        """See Column; a text that is no number is nothing."""
        self._numbers.grow(number + 1)
        if isinstance(value, str):
            value = finite_number(value)
        self._numbers.values[number] = value if isinstance(value, int | float) else np.nan


class ListColumn:
    """Several texts an item, as codes in one array; items that changed have their own.

    One text that meets `any_of` is enough, and one in the range; `none_of` is for all of them.
    """

    def __init__(self, lists: pl.Series) -> None:
        sizes = lists.list.len().fill_null(0).cast(pl.Int64).to_numpy()
        self._texts, self._codes = _coded(lists.filter(pl.Series(sizes > 0)).explode())
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._changed: dict[int, NDArray[np.int32]] = {}
        self._count = len(sizes)

    def test(self, condition: Predicate, numbers: Int64s | None = None) -> Mask:
        """See Column."""
        if numbers is None:
            self._texts.check(condition)
        found = np.ones(self._count if numbers is None else len(numbers), np.bool_)
        nothing = Predicate(attribute=condition.attribute)
        if condition.any_of:
            found &= self._any(replace(nothing, any_of=condition.any_of), numbers)
        if condition.none_of:
            found &= ~self._any(replace(nothing, any_of=condition.none_of), numbers)
        if _ranged(condition):
            limits = replace(nothing, at_least=condition.at_least, at_most=condition.at_most)
            found &= self._any(limits, numbers)
        return found

    def put(self, number: int, value: Value) -> None:
        """See Column; one text is a list of one."""
        texts = value if isinstance(value, tuple) else (value,) if isinstance(value, str) else ()
        codes = [self._texts.code(text) for text in texts if text]
        self._changed[number] = np.array(codes, np.int32)
        self._count = max(self._count, number + 1)

    def _any(self, condition: Predicate, numbers: Int64s | None) -> Mask:
        """Say which items have a text that meets a condition that no text does not."""
        if numbers is not None:
            return np.array([self._one(condition, n) for n in numbers.tolist()], np.bool_)
        so_far = np.concatenate([[0], np.cumsum(self._texts.test(condition, self._codes))])
        found = np.zeros(self._count, np.bool_)
        found[: len(self._starts) - 1] = so_far[self._starts[1:]] > so_far[self._starts[:-1]]
        for number in self._changed:
            found[number] = self._one(condition, number)
        return found

    def _one(self, condition: Predicate, number: int) -> bool:
        codes = self._changed.get(number)
        if codes is None:
            if number >= len(self._starts) - 1:
                return False
            codes = self._codes[self._starts[number] : self._starts[number + 1]]
        return bool(self._texts.test(condition, codes).any())


def column_of(values: pl.Series) -> Column:
    """Return the column of a Parquet column: lists, numbers, or anything else as text."""
    if values.dtype.is_nested():
        return ListColumn(values.cast(pl.List(pl.String)))
    if values.dtype.is_numeric():
        return NumberColumn(values.cast(pl.Float64).fill_null(np.nan).to_numpy().copy())
    return TextColumn(values.cast(pl.String))


def _coded(texts: pl.Series) -> tuple[Vocabulary, NDArray[np.int32]]:
    """Return the distinct texts and the code of each text, -1 for none."""
    texts = texts.cast(pl.String).replace({"": None})
    names = texts.drop_nulls().unique().sort().to_list()
    if not names:
        return Vocabulary([]), np.full(len(texts), -1, np.int32)
    codes = texts.cast(pl.Enum(names)).to_physical().cast(pl.Int32).fill_null(-1)
    return Vocabulary(names), codes.to_numpy().copy()


def _meets(condition: Predicate, names: Sequence[str], rows: dict[str, int]) -> Mask:
    """Return which texts (V + 1,) meet a condition, the last one for no text."""
    table = np.ones(len(names) + 1, np.bool_)
    if condition.any_of:
        table[:] = False
        table[[rows[text] for text in condition.any_of if text in rows]] = True
    table[[rows[text] for text in condition.none_of if text in rows]] = False
    if _ranged(condition):
        numbers = (finite_number(name) for name in names)
        own = np.array([np.nan if n is None else n for n in numbers], np.float64)
        table[:-1] &= _in_range(condition, own)
    table[-1] = not condition.any_of and not _ranged(condition)
    return table


def _ranged(condition: Predicate) -> bool:
    return condition.at_least is not None or condition.at_most is not None


def _in_range(condition: Predicate, numbers: NDArray[np.float64]) -> Mask:
    """Say which numbers are between the limits; NaN is in no range."""
    found = np.ones(len(numbers), np.bool_)
    if condition.at_least is not None:
        found &= numbers >= condition.at_least
    if condition.at_most is not None:
        found &= numbers <= condition.at_most
    return found


def _as_numbers(condition: Predicate, texts: Sequence[str]) -> NDArray[np.float64]:
    found = []
    for text in texts:
        if (number := finite_number(text)) is None:
            raise InvalidArgument(f"{condition.attribute!r} has numbers alone, got {text!r}")
        found.append(number)
    return np.array(found, np.float64)
