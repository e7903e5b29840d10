"""ItemVectors: the vectors of a shard's items by item number, and their exact dot products."""

# n items asked, N items of the shard, D width

from __future__ import annotations

from functools import cached_property

import numpy as np

from corerec.stages import Float32s, Int64s

_BLOCK = 1 << 16


class ItemVectors:
    """Vectors of the items whose number is `shard` modulo `shards`."""

    def __init__(self, base: Float32s, shard: int = 0, shards: int = 1) -> None:
        """Hold `base` (N, D): row i is item number i * shards + shard."""
        self._base, self._shard, self._shards = base, shard, shards

    @property
    def dim(self) -> int:
        """Width D."""
        return int(self._base.shape[1])

    @cached_property
    def longest(self) -> float:
        """Length of the longest vector."""
        blocks = (self._base[start : start + _BLOCK] for start in range(0, len(self._base), _BLOCK))
        squares = (float(np.einsum("nd,nd->n", own, own).max()) for own in blocks)
        return float(np.sqrt(max(squares, default=0.0)))

    def dots(self, query: Float32s, numbers: Int64s) -> Float32s:
        """Return the dot products (n,) of a query (D,) with items (n,) of this shard.

        Their bits depend on nothing but the two vectors: not on the place of a row, as those of a
        matrix product do. So shards can be merged exactly.
        """
        rows = np.take(self._base, numbers // self._shards, axis=0)
        found: Float32s = np.einsum("nd,d->n", rows, query)
        return found
