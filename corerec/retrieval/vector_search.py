"""VectorSearch: one model's items of a shard; finds the nearest and scores any of them exactly."""

# B queries, k items wanted, n items found, D width

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from corerec.errors import InvalidArgument
from corerec.retrieval.merge import best_first
from corerec.retrieval.sources import IndexedVectors
from corerec.retrieval.vectors import ItemVectors
from corerec.stages import Float32s, Int64s

_MARGIN = 16
"""So many more than k are asked of the index: what it rounds otherwise may stand at the edge."""
_WIDER = 1024
"""So many more are asked where the margin does not separate the k-th from what was not found."""
_ROUNDING = 2e-6
"""How far an index's score may be from the exact one, as a share of the lengths' product."""

Found = tuple[Int64s, Float32s]


class VectorSearch:
    """Searches the vectors of one model; scores do not depend on how items are sharded."""

    def __init__(self, source: IndexedVectors) -> None:
        self.kind, self.source, self.weight = source.kind, source.source, source.weight
        self.vectors = ItemVectors(source.vectors, source.shard, source.shards)
        self._index, self._model_id = source.index, source.model_id

    def check(self, query: Float32s) -> None:
        """Raise InvalidArgument unless a query is (D,) float32 and finite."""
        if query.shape != (self.vectors.dim,) or query.dtype != np.float32:
            raise InvalidArgument(
                f"the query of {self.kind} must be float32 of shape ({self.vectors.dim},), "
                f"got {query.dtype} {query.shape}"
            )
        if not np.isfinite(query).all():
            raise InvalidArgument(f"the query of {self.kind} must be finite, got NaN or Inf")

    def search(self, queries: Float32s, k: int, excluded: Sequence[Int64s]) -> list[Found]:
        """Return each query's k best numbers and exact dot products, best first, ties by number.

        Shapes: queries (B, D); excluded, one array a query; returns (n,) and (n,) a query, n <= k.
        """
        wide = k + _MARGIN
        numbers, scores = self._index.search(queries, wide, excluded, model_id=self._model_id)
        found = []
        for row, query in enumerate(queries):
            own = self._cut(query, numbers[row], scores[row], k)
            if own is None:
                again = self._index.search(
                    queries[row : row + 1], k + _WIDER, [excluded[row]], model_id=self._model_id
                )
                own = self._cut(query, again[0][0], again[1][0], k, accept=True)
            assert own is not None
            found.append(own)
        return found

    def part(self, query: Float32s, numbers: Int64s) -> Float32s:
        """Return this model's part (n,) of the scores of items (n,) for a query (D,)."""
        return self.weighted(self.vectors.dots(query, numbers))

    def weighted(self, dots: Float32s) -> Float32s:
        """Return dot products as parts of scores."""
        return dots if self.weight == 1 else dots * np.float32(self.weight)

    def _cut(
        self,
        query: Float32s,
        numbers: Int64s,
        scores: NDArray[np.float32],
        k: int,
        *,
        accept: bool = False,
    ) -> Found | None:
        """Return the exact best k of what an index found; None when others may be among them."""
        there = numbers >= 0
        some, least = not there.all(), scores[-1] if len(scores) else 0.0
        numbers = numbers[there]
        dots = self.vectors.dots(query, numbers)
        order = best_first(numbers, dots)[:k]
        if not (some or accept):
            # Everything that was not found has at most the last score that was.
            slack = _ROUNDING * self.vectors.longest * float(np.linalg.norm(query))
            if dots[order[-1]] <= least + slack:
                return None
        return numbers[order], dots[order]
