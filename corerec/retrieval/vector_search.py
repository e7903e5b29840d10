"""VectorSearch: one model's items of a shard; finds the nearest and scores any of them exactly.

What an index found is scored by the vectors themselves, a pair at a time, by the index where it
has them, so scores do not depend on how items are sharded.
"""

# B queries, k items wanted, n items found, D width

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from corerec.errors import InvalidArgument
from corerec.retrieval.check import is_finite
from corerec.retrieval.merge import best_first
from corerec.retrieval.owned import Mask
from corerec.retrieval.sources import IndexedVectors
from corerec.retrieval.vectors import ItemVectors
from corerec.stages import Float32s, Int64s

Found = tuple[Int64s, Float32s]


class VectorSearch:
    """Searches the vectors of one model."""

    def __init__(self, source: IndexedVectors) -> None:
        self.kind, self.weight = source.kind, source.weight
        self.vectors = ItemVectors(
            source.vectors, source.mean_vector(), source.shard, source.shards
        )
        self._index, self._model_id = source.index, source.model_id
        spec = source.index.store.spec
        # Codes alone: the index's scores are not those of the vectors.
        self._coded = spec.is_lists and not spec.is_refined and spec.kind != "ivf-flat"

    def check(self, query: Float32s) -> None:
        """Raise InvalidArgument unless a query is (D,) float32 and finite."""
        if query.shape != (self.vectors.dim,) or query.dtype != np.float32:
            raise InvalidArgument(
                f"the query of {self.kind} must be float32 of shape ({self.vectors.dim},), "
                f"got {query.dtype} {query.shape}"
            )
        if not is_finite(query):
            raise InvalidArgument(f"the query of {self.kind} must be finite, got NaN or Inf")

    def search(
        self, queries: Float32s, k: int, excluded: Sequence[Int64s], allowed: Mask | None = None
    ) -> list[Found]:
        """Return each query's k best numbers and exact dot products, best first, ties by number.

        Shapes: queries (B, D); excluded, one array a query; allowed, a mask by item number;
        returns (n,) and (n,) a query, n <= k.
        """
        numbers, scores = self._index.search(
            queries, k, excluded, allowed=allowed, model_id=self._model_id
        )
        found = [_without_padding(*own) for own in zip(numbers, scores, strict=True)]
        if not self._coded:
            return found
        return [self._exact(query, own[0]) for query, own in zip(queries, found, strict=True)]

    def weighted(self, dots: Float32s) -> Float32s:
        """Return dot products as parts of candidates' scores."""
        return dots if self.weight == 1 else dots * np.float32(self.weight)

    def upsert(self, numbers: Int64s, vectors: Float32s, *, indexed: bool = False) -> None:
        """Give items (n,) of the shard, each once, their vectors (n, D).

        `indexed` says that the index was built with them.
        """
        self.vectors.put(numbers, vectors)
        if not indexed:
            self._index.upsert(numbers, np.ascontiguousarray(vectors, np.float32))

    def remove(self, numbers: Int64s) -> None:
        """Never find these items again, until they come back."""
        self._index.remove(numbers)

    def restore(self, numbers: Int64s) -> None:
        """Find items again that were removed, where they have a vector."""
        there = numbers[self.vectors.has(numbers)]
        if len(there):
            self._index.upsert(there, self.vectors.take(there))

    @property
    def pending(self) -> int:
        """Items that are searched beside the main index."""
        return self._index.pending

    def warm(self) -> None:
        """Try a change of the index, so that the first one is as fast as any."""
        self._index.warm()

    def maintain(self) -> bool:
        """Merge a little of what came into the main index; True while there is more."""
        return bool(self._index.maintain())

    def _exact(self, query: Float32s, numbers: Int64s) -> Found:
        """Return items with their dot products, in that order."""
        dots = self.vectors.dots(query, numbers)
        order = best_first(numbers, dots)
        return numbers[order], dots[order]


def _without_padding(numbers: Int64s, scores: Float32s) -> Found:
    if not len(numbers) or numbers[-1] >= 0:
        return numbers, scores
    size = np.count_nonzero(numbers >= 0)
    return numbers[:size], scores[:size]
