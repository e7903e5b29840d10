"""Arrays that grow at the end, at a cost that is constant per row on average."""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)

SPARE = 1024
"""Rows of room that an array grows by at least."""


def room_for(rows: int, have: int) -> int:
    """Return how many rows to make room for, when `rows` are needed and there is room for `have`.

    It grows by a quarter, so a row is copied four times on average, however many come.
    """
    return have if rows <= have else max(rows + SPARE, have + have // 4)


class Growing(Generic[T]):
    """An array (n, ...) with room at its end; `values` is a view of the rows that are used."""

    def __init__(self, start: NDArray[T], blank: object = 0) -> None:
        """Begin with a copy of `start`; rows that nobody wrote hold `blank`."""
        self._blank = blank
        self._room = np.array(start)
        self.values: NDArray[T] = self._room[:]

    def __len__(self) -> int:
        return len(self.values)

    def grow(self, rows: int) -> None:
        """Have at least `rows` rows; views taken before keep what they showed."""
        if rows <= len(self.values):
            return
        if rows > len(self._room):
            used = len(self.values)
            shape = (room_for(rows, len(self._room)), *self._room.shape[1:])
            wider = np.full(shape, self._blank, self._room.dtype)
            wider[:used] = self._room[:used]
            self._room = wider
        self.values = self._room[:rows]
