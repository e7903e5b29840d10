"""Joins what shards found: each source's lists by its own score, so that any number of shards
gives exactly what one gives."""

# n items of a list

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from corerec.stages import Float32s, Int64s, SearchResult, SourceList

POPULAR = "popular"
"""Kind of the popular list among the lists of a shard."""


def best_first(numbers: Int64s, scores: Float32s) -> NDArray[np.int64]:
    """Return the order of items by score, highest first, ties by lower number."""
    # What comes is nearly in order, where a stable sort is several times faster than lexsort.
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    if (ordered[1:] == ordered[:-1]).any():
        return np.lexsort((numbers, -scores))
    return order


def merge(results: Sequence[SearchResult], k: int) -> dict[str, SourceList]:
    """Return the k best of each source over all shards, by kind.

    Shards hold different items, so no item comes twice. A source that no shard answered for is not
    there.
    """
    if len(results) == 1:
        return {own.kind: own for own in results[0].lists}
    found: dict[str, list[SourceList]] = {}
    for result in results:
        for own in result.lists:
            found.setdefault(own.kind, []).append(own)
    return {kind: _join(kind, own, k) for kind, own in found.items()}


def _join(kind: str, lists: Sequence[SourceList], k: int) -> SourceList:
    numbers = np.concatenate([own.numbers for own in lists])
    scores = np.concatenate([own.scores for own in lists])
    order = best_first(numbers, scores)[:k]
    totals = np.concatenate([own.totals for own in lists])[order]
    return SourceList(kind=kind, numbers=numbers[order], scores=scores[order], totals=totals)
