"""ItemVectors: the vectors of a shard's items by item number, and their exact dot products."""

# n items asked, N items of the shard in the release, D width

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from corerec.live.arrays import Growing
from corerec.retrieval.stores.exact import score_rows
from corerec.stages import Float32s, Int64s

_NONE = -1


class ItemVectors:
    """Vectors of the items whose number is `shard` modulo `shards`; they can change.

    An item without one, such as a new item of a model that knows no content, is scored by the
    mean of all items, which neither lifts nor sinks it.
    """

    def __init__(self, base: Float32s, mean: Float32s, shard: int = 0, shards: int = 1) -> None:
        """Hold `base` (N, D): row i is item number i * shards + shard."""
        self._base, self._mean, self._shard, self._shards = base, mean, shard, shards
        # Row of `base`, or of `_later` after them; pages of numbers that nobody changed stay cold.
        self._places: Growing[np.int64] | None = None
        self._later = Growing(np.empty((0, base.shape[1]), np.float32))

    @property
    def dim(self) -> int:
        """Width D."""
        return int(self._base.shape[1])

    def dots(self, query: Float32s, numbers: Int64s) -> Float32s:
        """Return the dot products (n,) of a query (D,) with items (n,) of this shard.

        Their bits are those that an index gives, and depend on nothing but the two vectors: not on
        the place of a row, as those of a matrix product do. So shards can be merged exactly.
        """
        rows = self._rows(numbers)
        if self._places is None and (not len(rows) or rows.max() < len(self._base)):
            return _dots(self._base, query, rows)
        places = self._place(rows)
        found = np.empty(len(rows), np.float32)
        later, none = places >= len(self._base), places == _NONE
        trained = ~(later | none)
        found[trained] = _dots(self._base, query, places[trained])
        found[later] = _dots(self._later.values, query, places[later] - len(self._base))
        found[none] = _dots(self._mean[None], query, np.zeros(1, np.int64))[0]
        return found

    def take(self, numbers: Int64s) -> Float32s:
        """Return the vectors (n, D) of items (n,) of this shard."""
        rows = numbers // self._shards
        if self._places is None and (not len(rows) or rows.max() < len(self._base)):
            return np.take(self._base, rows, axis=0)
        places = self._place(rows)
        later = places >= len(self._base)
        found = np.empty((len(rows), self.dim), np.float32)
        found[places == _NONE] = self._mean
        trained = ~later & (places != _NONE)
        found[trained] = self._base[places[trained]]
        found[later] = self._later.values[places[later] - len(self._base)]
        return found

    def has(self, numbers: Int64s) -> NDArray[np.bool_]:
        """Say which of these numbers of the shard have a vector."""
        found: NDArray[np.bool_] = self._place(numbers // self._shards) != _NONE
        return found

    def put(self, numbers: Int64s, vectors: Float32s) -> None:
        """Set the vectors (n, D) of items (n,) of this shard, each once."""
        if not len(numbers):
            return
        if self._places is None:
            self._places = Growing(np.arange(len(self._base), dtype=np.int64), _NONE)
        rows = numbers // self._shards
        self._places.grow(int(rows.max()) + 1)
        places = self._places.values[rows]
        new = places < len(self._base)
        start = len(self._later)
        self._later.grow(start + int(new.sum()))
        places[new] = len(self._base) + np.arange(start, len(self._later))
        self._later.values[places - len(self._base)] = vectors
        self._places.values[rows] = places

    def _rows(self, numbers: Int64s) -> Int64s:
        return numbers if self._shards == 1 else numbers // self._shards

    def _place(self, rows: Int64s) -> Int64s:
        if self._places is None:
            return np.where(rows < len(self._base), rows, _NONE)
        inside = rows < len(self._places)
        if not len(self._places):
            return np.full(len(rows), _NONE, np.int64)
        return np.where(inside, self._places.values[np.where(inside, rows, 0)], _NONE)


def _dots(matrix: Float32s, query: Float32s, rows: Int64s) -> Float32s:
    found: Float32s = score_rows(matrix, query[None], rows[None], "ip")[0]
    return found
