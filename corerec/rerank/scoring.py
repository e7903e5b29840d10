"""Compiled: block list, pins, freshness and boosts of one entry. `plain` is its twin.

n candidates, N items of the catalogue.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from corerec.engines.compiled import compiled
from corerec.rerank.ahead import ask_for

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STEPS = (("freshness", ""), ("boost", "category"), ("boost", "creator"))
"""Rule and kind of what moves scores, in order."""


class Scored(NamedTuple):
    """The n candidates of an entry after freshness and boosts."""

    scores: Floats
    """(n,) scores after the rules."""
    factors: Floats
    """(n, 3) what each step of STEPS moved the score by; 1 where it did not."""
    blocked: NDArray[np.bool_]
    """(n,) whether a candidate is never shown: on the block list, or deleted."""
    order: Ints
    """Rows of the candidates that are neither blocked nor pinned, best score first."""


@compiled
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
) -> tuple[Floats, Floats, NDArray[np.bool_], Ints]:
    """Return the fields of a Scored.

    Shapes: numbers and ranked (n,), ranking's scores; pins (p,) numbers that have a place already;
    blocked, deleted, born and the codes categories and creators (N,). The last factor of each
    kind, which code -1 reads, is 1. `now` and `half_life` are microseconds, and `born` -1 or `now`
    0 is unknown.
    """
    ask_for(numbers, blocked.ctypes.data, 1)
    ask_for(numbers, deleted.ctypes.data, 1)
    ask_for(numbers, born.ctypes.data, 8)
    ask_for(numbers, categories.ctypes.data, 4)
    ask_for(numbers, creators.ctypes.data, 4)
    scores, factors = ranked.copy(), np.ones((len(numbers), 3))
    gone, free, count = np.zeros(len(numbers), np.bool_), np.empty(len(numbers), np.int64), 0
    for row in range(len(numbers)):
        item = numbers[row]
        gone[row] = blocked[item] or deleted[item]
        if weight > 0 and born[item] != -1 and now != 0:
            lives = max(now - born[item], 0) / half_life
            factors[row, 0] += weight * np.exp2(-lives) if lives <= 10 else 0.0
        factors[row, 1] = category_factors[categories[item]]
        factors[row, 2] = creator_factors[creators[item]]
        for step in range(3):
            # Above 1 raises, also where a score is negative.
            factor = factors[row, step]
            scores[row] = scores[row] * factor if scores[row] >= 0 else scores[row] / factor
        placed = gone[row]
        for pin in pins:
            placed |= pin == item
        if not placed:
            free[count] = row
            count += 1
    free = free[:count]
    return scores, factors, gone, free[np.argsort(-scores[free], kind="mergesort")]
