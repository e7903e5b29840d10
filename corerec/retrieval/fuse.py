"""Joins the candidates of two sources: each item once, one scale of scores."""

from __future__ import annotations

import numpy as np

from corerec.stages import Candidates, Float32s, Int64s, Source


def fuse(
    numbers: Int64s,
    scores: Float32s,
    *,
    popular: Int64s,
    places: int,
    seen: Int64s,
    query: Float32s,
    vectors: Float32s,
) -> Candidates:
    """Return as many candidates as there are `numbers`, at most `places` from the popular list.

    The two-tower keeps the other places; popular items that it brought itself, or that were seen,
    take none; places that the popular list cannot fill go back. A popular candidate's score is its
    own dot product with the query, so scores of both sources compare.

    Shapes: numbers, scores (k,), best first, padded with -1; popular (P,) best first; seen (S,) in
    any order; query (D,); vectors (N, D).
    """
    k = len(numbers)
    brought = int(np.count_nonzero(numbers >= 0))
    head = min(brought, k - places)
    taken = np.zeros(len(vectors), np.bool_)
    taken[numbers[:head]] = True
    if len(seen):
        taken[seen[(seen >= 0) & (seen < len(vectors))]] = True
    extra = popular[~taken[popular]][:places]
    fill = numbers[head:brought]
    if len(extra):
        taken[extra] = True
        fill = fill[~taken[fill]]
    fill = fill[: max(0, k - head - len(extra))]
    own = np.concatenate([numbers[:head], fill])
    both = np.concatenate([own, extra])
    sources = np.full(len(both), Source.TWO_TOWER, np.uint8)
    sources[len(own) :] = Source.POPULAR
    all_scores = np.concatenate(
        [scores[:head], (vectors[np.concatenate([fill, extra])] @ query).astype(np.float32)]
    )
    order = np.argsort(-all_scores, kind="stable")
    return Candidates(numbers=both[order], scores=all_scores[order], sources=sources[order])
