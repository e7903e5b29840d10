"""Which row of a table by item a number of the live catalogue has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from corerec.live.arrays import Growing
from corerec.stages import Int64s


class LiveRows:
    """Rows of N items of the training and of those that came later; the others have none.

    Row N is nobody's: tables keep their blank item, or the start of every history, there. So a
    later item, number i >= N, has row i + 1.
    """

    def __init__(self, count: int) -> None:
        """Begin with the items of the training, numbers below `count`."""
        self.count = count
        self._known = Growing(np.zeros(0, np.bool_), False)  # by number - N

    @property
    def known(self) -> NDArray[np.bool_]:
        """(M,) whether number N + i has a row; none has beyond."""
        return self._known.values

    def put(self, numbers: Int64s) -> Int64s:
        """Give each number (n,) its row, and return the rows."""
        later = numbers[numbers >= self.count] - self.count
        if len(later):
            self._known.grow(int(later.max()) + 1)
            self._known.values[later] = True
        return self._shift(numbers)

    def candidates(self, numbers: Int64s) -> Int64s:
        """Return rows of numbers >= 0 of any shape; the blank one, N, of those without a row."""
        if not len(numbers) or numbers.max() < self.count:
            return numbers
        return np.where(self._has(numbers), self._shift(numbers), self.count)

    def history(self, numbers: Int64s) -> Int64s:
        """Return rows of numbers (H,), -1 of those without a row."""
        if not len(numbers) or (numbers.max() < self.count and numbers.min() >= 0):
            return numbers
        return np.where(self._has(numbers), self._shift(numbers), -1)

    def _has(self, numbers: Int64s) -> NDArray[np.bool_]:
        later = numbers - self.count
        inside = (later >= 0) & (later < len(self._known))
        found = (numbers >= 0) & (later < 0)
        found[inside] = self._known.values[later[inside]]
        return found

    def _shift(self, numbers: Int64s) -> Int64s:
        return numbers + (numbers >= self.count)  # row N is the blank one
