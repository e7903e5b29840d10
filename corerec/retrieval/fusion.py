"""Fusion: from every source's merged list to the candidates of an entry, by the rule of `fuse`."""

# S sources, k places, n candidates

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from corerec.retrieval.fuse import fuse, turns
from corerec.retrieval.merge import POPULAR
from corerec.stages import Candidates, Float32s, Int64s, SearchResult, Source, SourceList


class Fusion:
    """Sources, their shares and marks, in the order of their turns."""

    def __init__(self, marks: Mapping[str, Source], shares: Sequence[float]) -> None:
        """Take what each kind's candidates are marked with, and its share of the places."""
        self._kinds, self._shares = tuple(marks), tuple(shares)
        self._marks = {**marks, POPULAR: Source.POPULAR}
        self._turns = tuple(int(mark) for mark in marks.values())

    def candidates(
        self, lists: Mapping[str, SourceList], k: int, *, places: int, scored: bool
    ) -> Candidates:
        """Return at most k candidates, best first, at most `places` of the popular list alone.

        Their scores are the lists' totals; unless `scored`, 1 / place among the draws.
        """
        rows = np.full((len(self._kinds), k), -1, np.int64)  # (S, k)
        totals = np.zeros((len(self._kinds), k), np.float32)
        for row, kind in enumerate(self._kinds):
            if (own := lists.get(kind)) is not None:
                rows[row, : len(own.numbers)] = own.numbers
                totals[row, : len(own.numbers)] = own.totals
        last = lists.get(POPULAR)
        popular = np.empty(0, np.int64) if last is None else last.numbers
        found = fuse(rows, turns(k, self._shares, self._turns), popular=popular, places=places)
        if scored:
            every = totals.reshape(-1)
            if last is not None:
                every = np.concatenate([every, last.totals])
            scores = every[found.at]
        else:
            scores = np.reciprocal(np.arange(1, len(found.numbers) + 1, dtype=np.float32))
        order = np.argsort(-scores, kind="stable")
        return Candidates(
            numbers=found.numbers[order], scores=scores[order], sources=found.sources[order]
        )

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
