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
        """Begin with a copy of `start` and some room; rows that nobody wrote hold `blank`."""
        self._blank = blank
        self._room = self._with(start, len(start) + len(start) // 4 + SPARE)
        self.values: NDArray[T] = self._room[: len(start)]

    def __len__(self) -> int:
        return len(self.values)

    def grow(self, rows: int) -> None:
        """Have at least `rows` rows; views taken before keep what they showed."""
        if rows <= len(self.values):
            return
        if rows > len(self._room):
            self._room = self._with(self.values, room_for(rows, len(self._room)))
        self.values = self._room[:rows]

    def _with(self, used: NDArray[T], rows: int) -> NDArray[T]:
        # Zeros are pages that nobody touched: room costs memory when it is written.
        room = np.zeros((rows, *used.shape[1:]), used.dtype)
        room[: len(used)] = used
        if self._blank:
            room[len(used) :] = self._blank
        return room
