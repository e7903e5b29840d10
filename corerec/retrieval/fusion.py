"""Fusion: from every source's merged list to the candidates of an entry, by the rule of `fuse`."""

# S sources, k places, n candidates

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from corerec.retrieval.fuse import Fused, fuse, turns
from corerec.retrieval.fuse_kernel import drawn_scores
from corerec.retrieval.merge import POPULAR
from corerec.stages import Candidates, Float32s, Int64s, SearchResult, Source, SourceList

Totals = Callable[[Int64s, Mapping[str, Float32s]], Float32s]
"""Scores of items (n,) as candidates, given dot products (n,) by kind, NaN where none is known."""


class Fusion:
    """Sources, their shares and marks, in the order of their turns."""

    def __init__(self, marks: Mapping[str, Source], shares: Sequence[float]) -> None:
        """Take what each kind's candidates are marked with, and its share of the places."""
        self._kinds, self._shares = tuple(marks), tuple(shares)
        self._marks = {**marks, POPULAR: Source.POPULAR}
        self._turns = tuple(int(mark) for mark in marks.values())

    def candidates(
        self,
        lists: Mapping[str, SourceList],
        k: int,
        *,
        places: int,
        weighted: Collection[str],
        totals: Totals | None = None,
    ) -> Candidates:
        """Return at most k candidates, best first, at most `places` of the popular list alone.

        Their scores are the lists' totals, or those that `totals` gives; when no kind is
        `weighted`, 1 / place among the draws.
        """
        rows = np.empty((len(self._kinds), k), np.int64)  # (S, k)
        rows.fill(-1)
        for row, kind in enumerate(self._kinds):
            if (own := lists.get(kind)) is not None:
                rows[row, : len(own.numbers)] = own.numbers
        last = lists.get(POPULAR)
        popular = np.empty(0, np.int64) if last is None else last.numbers
        found = fuse(rows, turns(k, self._shares, self._turns), popular=popular, places=places)
        if not weighted:  # as they were drawn
            scores = np.reciprocal(np.arange(1, len(found.numbers) + 1, dtype=np.float32))
            return Candidates(numbers=found.numbers, scores=scores, sources=found.sources)
        if totals is None:
            scores = self._given(lists, k, found)
        else:
            scores = totals(found.numbers, self._known(lists, k, found, weighted))
        order = (-scores).argsort(kind="stable")
        return Candidates(
            numbers=found.numbers[order], scores=scores[order], sources=found.sources[order]
        )

    def _given(self, lists: Mapping[str, SourceList], k: int, found: Fused) -> Float32s:
        """Return the lists' totals of what was drawn."""
        every = np.zeros((len(self._kinds), k), np.float32)  # (S, k)
        for row, kind in enumerate(self._kinds):
            if (own := lists.get(kind)) is not None:
                every[row, : len(own.totals)] = own.totals
        flat = every.reshape(-1)
        if (last := lists.get(POPULAR)) is not None:
            flat = np.concatenate([flat, last.totals])
        return flat[found.at]

    def _known(
        self, lists: Mapping[str, SourceList], k: int, found: Fused, weighted: Collection[str]
    ) -> dict[str, Float32s]:
        """Return each weighted source's scores of what it drew, NaN of what others drew."""
        return {
            kind: drawn_scores(found.at, row * k, own.scores)
            for row, kind in enumerate(self._kinds)
            if kind in weighted and (own := lists.get(kind)) is not None
        }

    def found_by(self, numbers: Int64s, lists: Mapping[str, SourceList]) -> dict[int, Float32s]:
        """Return each source's own scores of candidates (n,), NaN where it did not find them."""
        order = np.argsort(numbers)
        found: dict[int, Float32s] = {}
        for kind, own in lists.items():
            mark = int(self._marks[kind])
            scores = found.setdefault(mark, np.full(len(numbers), np.nan, np.float32))
            if not len(numbers):
                continue
            place = np.searchsorted(numbers, own.numbers, sorter=order)
            place = order[np.minimum(place, len(numbers) - 1)]
            same = numbers[place] == own.numbers
            scores[place[same]] = own.scores[same]
        return found

    def coverage(self, there: Sequence[SearchResult], shards: int) -> float:
        """Return the share of the places whose source answered, over all shards."""
        counts = dict.fromkeys(self._kinds, 0)
        for result in there:
            for own in result.lists:
                if own.kind in counts:
                    counts[own.kind] += 1
        if all(count == shards for count in counts.values()):
            return 1.0
        parts = zip(self._shares, counts.values(), strict=True)
        return float(sum(share * count / shards for share, count in parts))


def timings_of(
    kinds: Sequence[str], there: Sequence[SearchResult], micros: Mapping[str, int]
) -> dict[str, int]:
    """Return each encoder's time, and the time of the slowest shard for each of its steps."""
    found = {f"{kind}_encode": micros[kind] for kind in micros if kind in kinds}
    for result in there:
        for step, spent in result.timings.items():
            found[step] = max(spent, found.get(step, 0))
    return found
