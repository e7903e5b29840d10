"""Delta: the newest vectors of an index, compared one by one; their best join what was found."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# B queries, D width, n rows, k wanted, m that join

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from corerec.retrieval.stores.arrays import inside, prepared
from corerec.retrieval.stores.base import Mask
from corerec.retrieval.stores.exact import score_rows
from corerec.retrieval.stores.flat import FlatStore
from corerec.retrieval.stores.int8_compiled import compiled
from corerec.stages import Float32s, Int64s


class Delta(FlatStore):
    """An exact store beside a larger one: what comes last lies last, and leaves from there."""

    def last(self, count: int) -> tuple[Int64s, Float32s]:
        """Return copies of the numbers and vectors that lie last, at most so many."""
        rows = slice(max(0, self._count - count), self._count)
        return self._numbers[rows].copy(), self._vectors[rows].copy()

    def drop_last(self, count: int) -> None:
        """Forget the rows that lie last, at most so many."""
        left = max(0, self._count - count)
        self._places.drop(self._numbers[left : self._count])
        self._count = left

    def join(
        self,
        found: tuple[Int64s, Float32s],
        queries: Float32s,
        allowed: Mask | None = None,
        excluded: Sequence[Int64s] | None = None,
    ) -> tuple[Int64s, Float32s]:
        """Return the k best of what another store found and of these rows.

        What is not among the other store's k best is not among the k best of both, so of these rows
        only those matter that reach the k-th score: a few of thousands.

        Shapes: found, numbers and scores (B, k), best first, padded with -1 and -inf, of the same
        queries (B, D), filter and exclusions, see `VectorStore.search`; returns the same.
        """
        if not self._count:
            return found
        numbers = np.require(found[0], np.int64, ["C", "W"])
        scores = np.require(found[1], np.float32, ["C", "W"])
        queries, rows = prepared(queries, self._metric), self._rows()
        blocked = None
        if allowed is not None:
            blocked = np.flatnonzero(~inside(rows.numbers, allowed))
        for i, near in enumerate(rows.reaching(queries, scores, blocked, self._at(excluded))):
            if len(near):
                own = score_rows(rows.matrix, queries[i : i + 1], near[None], self._metric)[0]
                _insert(numbers[i], scores[i], rows.numbers[near], own)
        return numbers, scores

    def _at(self, excluded: Sequence[Int64s] | None) -> list[Int64s] | None:
        """Return the rows of excluded numbers, those that are here."""
        if excluded is None:
            return None
        at = [self._places.find(np.asarray(own, np.int64)) for own in excluded]
        return [own[own >= 0] for own in at]


@compiled
def _insert(numbers, scores, more, own):
    """Put items (m,) with their scores in their places among the k best, in place.

    Shapes: numbers, scores (k,), best first, equal scores by the lower number.
    """
    for place in range(len(more)):
        number, score = more[place], own[place]
        low, high = 0, len(numbers)
        while low < high:
            middle = (low + high) // 2
            if scores[middle] > score or (scores[middle] == score and numbers[middle] < number):
                low = middle + 1
            else:
                high = middle
        for after in range(len(numbers) - 1, low, -1):
            numbers[after], scores[after] = numbers[after - 1], scores[after - 1]
        if low < len(numbers):
            numbers[low], scores[low] = number, score
