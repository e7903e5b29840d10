"""Compiled: all rules over one entry, and what each item of its list is told. `plain` is its twin.

n candidates, N items of the catalogue, p pins of the list, c items chosen beside them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from corerec.engines.compiled import compiled
from corerec.rerank.choosing import NOTHING, choose
from corerec.rerank.scoring import score

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

INDEX, NUMBER, NEAR, BY_DIVERSITY, BY_CAPS, AGE = range(6)
"""Columns of `Applied.items`."""
SCORE, RANKED, LIKENESS, FACTORS = range(4)
"""Columns of `Applied.values`; the factors of scoring.STEPS are the last three."""


class Applied(NamedTuple):
    """What the rules made of one entry. Rows are places in `order`."""

    weighed: Floats
    """(4, n) each candidate's score after the rules, and its factor of each of scoring.STEPS."""
    blocked: NDArray[np.bool_]
    """(n,) whether a candidate is never shown: on the block list, or deleted."""
    order: Ints
    """(m,) the candidates that are neither blocked nor pinned, best score first."""
    chosen: Ints
    """(c,) rows in the order in which they were chosen."""
    passed: Ints
    """(m,) the place that a row would have won were its cap not full; -1 for all others."""
    relaxed_from: int
    """Place from which on the caps were ignored; c when they held to the end."""
    items: Ints
    """(6, c) of each chosen item: the candidate, its number, the number of what above is most like
    it or NOTHING, how many places diversity and the caps raised it by, and its age in microseconds,
    at least 0."""
    values: Floats
    """(6, c) its score, ranking's score, that likeness and its factors."""


@compiled
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
) -> tuple[Floats, NDArray[np.bool_], Ints, Ints, Ints, int, Ints, Floats]:
    """Return the fields of an Applied of at most `places` items.

    Of the numbers `pins`, which have a place already, the first `pinned` are in the list.
    All else is as `score` and `choose` take it.
    """
    scores, factors, gone, order = score(
        numbers,
        ranked,
        pins,
        blocked,
        deleted,
        born,
        now,
        fresh_weight,
        half_life,
        categories,
        category_factors,
        creators,
        creator_factors,
    )
    inside = pins[:pinned]
    chosen, near, likeness, passed, held = choose(
        scores[order],
        numbers[order],
        inside,
        table,
        categories,
        creators,
        (per_category, per_creator),
        method,
        weight,
        places,
        relax,
    )
    items, values = np.empty((6, len(chosen)), np.int64), np.empty((6, len(chosen)))
    weighed = np.empty((4, len(numbers)))
    for index in range(len(numbers)):
        weighed[0, index] = scores[index]
        for step in range(3):
            weighed[1 + step, index] = factors[index, step]
    for place in range(len(chosen)):
        row = chosen[place]
        index = order[row]
        items[INDEX, place], items[NUMBER, place] = index, numbers[index]
        items[NEAR, place] = NOTHING
        if near[place] >= 0:
            items[NEAR, place] = items[NUMBER, near[place]]
        elif near[place] != NOTHING:
            items[NEAR, place] = inside[-2 - near[place]]
        by_caps = 0
        for other in range(row):
            by_caps += 0 <= passed[other] <= place
        items[BY_DIVERSITY, place], items[BY_CAPS, place] = row - place - by_caps, by_caps
        items[AGE, place] = max(now - born[numbers[index]], 0)
        values[SCORE, place], values[RANKED, place] = scores[index], ranked[index]
        values[LIKENESS, place] = likeness[place]
        for step in range(3):
            values[FACTORS + step, place] = factors[index, step]
    return weighed, gone, order, chosen, passed, held, items, values
