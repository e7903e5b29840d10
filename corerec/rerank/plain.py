"""The plain twins of `scoring`, `choosing` and `applying`: what they compute, in NumPy, in short.

Nothing serves with them; the tests hold the compiled ones against them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from corerec.rerank.applying import Applied
from corerec.rerank.choosing import BY_SCORE, DPP, FLOOR, MMR, NOTHING, Choice, Floats, Ints
from corerec.rerank.compiled import DAY_MICROS, freshness_of, scale
from corerec.rerank.scoring import Scored


def score(
    numbers: Ints,
    ranked: Floats,
    pins: Ints,
    blocked: NDArray[np.bool_],
    deleted: NDArray[np.bool_],
    born: Ints,
    now: int,
    weight: float,
    half_life: float,
    categories: NDArray[np.int32],
    category_factors: Floats,
    creators: NDArray[np.int32],
    creator_factors: Floats,
) -> Scored:
    """Return what `scoring.score` returns, for the same arguments."""
    fresh, _ = freshness_of(born[numbers], now, half_life / DAY_MICROS)
    factors = [
        1 + weight * fresh,
        category_factors[categories[numbers]],
        creator_factors[creators[numbers]],
    ]
    scores = ranked
    for factor in factors:
        scores = scale(scores, factor)
    gone = blocked[numbers] | deleted[numbers]
    free = np.flatnonzero(~(gone | np.isin(numbers, pins)))
    order = free[np.argsort(-scores[free], kind="stable")]
    return Scored(scores, np.stack(factors, axis=1), gone, order)


def apply(
    numbers: Ints,
    ranked: Floats,
    pins: Ints,
    pinned: int,
    places: int,
    now: int,
    blocked: NDArray[np.bool_],
    deleted: NDArray[np.bool_],
    born: Ints,
    categories: NDArray[np.int32],
    creators: NDArray[np.int32],
    category_factors: Floats,
    creator_factors: Floats,
    table: NDArray[np.float32],
    fresh_weight: float,
    half_life: float,
    per_category: int,
    per_creator: int,
    method: int,
    weight: float,
    relax: bool,
) -> Applied:
    """Return what `applying.apply` returns, for the same arguments."""
    boosts = categories, category_factors, creators, creator_factors
    scored = score(
        numbers, ranked, pins, blocked, deleted, born, now, fresh_weight, half_life, *boosts
    )
    free = numbers[scored.order]
    picked = choose(
        scored.scores[scored.order],
        free,
        pins[:pinned],
        table,
        categories,
        creators,
        (per_category, per_creator),
        method,
        weight,
        places,
        relax,
    )
    rows, over = picked.chosen, np.flatnonzero(picked.passed >= 0)
    by_caps = [
        int(((over < row) & (picked.passed[over] <= place)).sum()) for place, row in enumerate(rows)
    ]
    age = np.maximum(now - born[free[rows]], 0)
    by_diversity = rows - np.arange(len(rows)) - np.array(by_caps, int)
    # Behind the chosen ones nothing, which is -1, and then pin i, which is -2 - i.
    above = np.concatenate([free[rows], [NOTHING], pins[:pinned]])
    near = above[np.where(picked.near >= 0, picked.near, len(rows) - 1 - picked.near)]
    index = scored.order[rows]
    return Applied(
        np.vstack([scored.scores, scored.factors.T]),
        scored.blocked,
        scored.order,
        rows,
        picked.passed,
        picked.relaxed_from,
        np.array([index, free[rows], near, by_diversity, by_caps, age]),
        np.vstack([scored.scores[index], ranked[index], picked.likeness, scored.factors[index].T]),
    )


def choose(
    scores: Floats,
    numbers: Ints,
    pins: Ints,
    table: NDArray[np.float32],
    categories: NDArray[np.int32],
    creators: NDArray[np.int32],
    caps: tuple[int, int],
    method: int,
    weight: float,
    k: int,
    relax: bool,
) -> Choice:
    """Return what `choosing.choose` returns, for the same arguments."""
    m, rows = len(scores), np.concatenate([numbers, pins])
    vectors = table[rows if method != BY_SCORE else rows[:0]].astype(np.float64)
    above = _Above(_relevance(scores), vectors, method, weight)
    groups = [(codes[rows], cap) for codes, cap in zip((categories, creators), caps, strict=True)]
    for pin in range(len(pins)):
        above.put(m + pin, -2 - pin)
    inside = [m + pin for pin in range(len(pins))]
    chosen: list[int] = []
    near: list[int] = []
    likeness: list[float] = []
    left, passed, relaxed_from = np.ones(m, bool), np.full(m, -1), None
    while len(chosen) < k:
        if not left.any():
            if not relax or relaxed_from is not None:
                break
            left, relaxed_from = passed >= 0, len(chosen)
            continue
        row = int(np.where(left, above.values(), -np.inf).argmax())
        left[row] = False
        if relaxed_from is None and any(
            cap and codes[row] >= 0 and (codes[inside] == codes[row]).sum() >= cap
            for codes, cap in groups
        ):
            passed[row] = len(chosen)
            continue
        near.append(above.near[row])
        likeness.append(above.likest[row])
        above.put(row, len(chosen))
        chosen.append(row)
        inside.append(row)
    held = len(chosen) if relaxed_from is None else relaxed_from
    return Choice(np.array(chosen, int), np.array(near, int), np.array(likeness), passed, held)


class _Above:
    """What is above, and the value of each of the m candidates given that."""

    def __init__(self, relevance: Floats, vectors: Floats, method: int, weight: float) -> None:
        m = len(relevance)
        self._relevance, self._vectors, self._method = relevance, vectors, method
        self._weight = weight
        self.near, self.likest = np.full(m, NOTHING), np.zeros(m)
        self._factor: list[Floats] = []
        self._volume = np.ones(m if len(vectors) == 0 else len(vectors))

    def values(self) -> Floats:
        m, weight = len(self._relevance), self._weight
        if self._method == MMR:
            return weight * self._relevance - (1 - weight) * self.likest
        if self._method == DPP:
            gain = np.log(np.maximum(self._volume[:m], FLOOR))
            return weight * self._relevance + (1 - weight) * gain
        return np.arange(m, 0.0, -1.0)

    def put(self, row: int, place: int) -> None:
        if len(self._vectors) == 0:
            return
        # Not a product of matrices: it may round equal rows differently, and copies then differ.
        likeness = np.einsum("nd,d->n", self._vectors, self._vectors[row])
        ours = likeness[: len(self.near)]
        better = (self.near == NOTHING) | (ours > self.likest)
        self.near[better], self.likest[better] = place, ours[better]
        if self._method != DPP or self._volume[row] <= FLOOR:
            return
        side = np.sqrt(self._volume[row])
        column = (1 + likeness) / 2 - sum(c[row] * c for c in self._factor)
        self._factor.append(column / side)
        self._volume = self._volume - (column / side) ** 2


def _relevance(scores: Floats) -> Floats:
    if len(scores) == 0 or (span := scores[0] - scores[-1]) == 0:
        return np.ones_like(scores)
    relevance: Floats = (scores - scores[-1]) / span
    return relevance
