"""Where each item number lies in a store."""

from __future__ import annotations

import numpy as np

from corerec.stages import Int64s

_FREE = 1 << 20
"""A table of so many numbers is taken without asking how full it is."""
_SPARSEST = 64
"""A table may be so many times as long as there are items."""


class Places:
    """A map from item numbers to rows: a table while numbers are dense, a dictionary when not."""

    def __init__(self) -> None:
        self._table = np.empty(0, np.int32)
        self._map: dict[int, int] | None = None
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Memory held, bytes."""
        return self._table.nbytes if self._map is None else 120 * len(self._map)

    def find(self, numbers: Int64s) -> Int64s:
        """Return the rows (n,) of numbers (n,), -1 where a number is not here."""
        if self._map is not None:
            get = self._map.get
            return np.fromiter((get(n, -1) for n in numbers.tolist()), np.int64, len(numbers))
        size = len(self._table)
        if not len(numbers) or not size:
            return np.full(len(numbers), -1, np.int64)
        if numbers.min() >= 0 and numbers.max() < size:
            return self._table.take(numbers).astype(np.int64)
        inside = (numbers >= 0) & (numbers < size)
        rows = np.full(len(numbers), -1, np.int64)
        rows[inside] = self._table[numbers[inside]]
        return rows

    def put(self, numbers: Int64s, rows: Int64s) -> None:
        """Set the rows of distinct numbers."""
        if not len(numbers):
            return
        self._count += int((self.find(numbers) < 0).sum())
        self._make_room(int(numbers.max()))
        if self._map is not None:
            self._map.update(zip(numbers.tolist(), rows.tolist(), strict=True))
        else:
            self._table[numbers] = rows

    def drop(self, numbers: Int64s) -> None:
        """Forget distinct numbers that are here."""
        self._count -= len(numbers)
        if self._map is not None:
            for number in numbers.tolist():
                del self._map[number]
        else:
            self._table[numbers] = -1

    def numbers(self) -> Int64s:
        """Return the numbers that are here, ascending."""
        if self._map is not None:
            return np.sort(np.fromiter(self._map, np.int64, len(self._map)))
        return np.flatnonzero(self._table >= 0)

    def _make_room(self, largest: int) -> None:
        if self._map is not None or largest < len(self._table):
            return
        if largest < max(_FREE, _SPARSEST * self._count):
            table = np.full(max(largest + 1, len(self._table) * 5 // 4), -1, np.int32)
            table[: len(self._table)] = self._table
            self._table = table
        else:
            known = self.numbers()
            self._map = dict(zip(known.tolist(), self._table[known].tolist(), strict=True))
            self._table = np.empty(0, np.int32)
