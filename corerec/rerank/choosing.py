"""Compiled: fills a list place by place, by score, MMR or DPP, under caps. `plain` is its twin.

MMR: Carbonell and Goldstein, "The use of MMR, diversity-based reranking", SIGIR 1998. Each place
goes to the candidate with the largest

    weight * relevance - (1 - weight) * max(likeness to what is above)

DPP: Chen, Zhang and Zhou, "Fast greedy MAP inference for determinantal point process", NeurIPS
2018, algorithm 1 and equation 9. Each place goes to the candidate that adds most to

    weight * sum of relevance + (1 - weight) * log det(S),  S_ij = (1 + likeness of i and j) / 2

over the whole list, by a Cholesky factor of S that grows by a row for each place.

Likeness is the cosine, relevance the score scaled to [0, 1]. Rows are the m candidates, best score
first, and behind them the p pins, which are in the list from the start; D is a vector's width.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from corerec.engines.compiled import compiled
from corerec.rerank.ahead import ask_for

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BY_SCORE, MMR, DPP = 0, 1, 2
FLOOR = 1e-6
"""A determinant grows by no factor below this, where rounding begins: a copy of what is above
counts as this much, and adds nothing that later ones are compared with."""
NOTHING = -1
"""In `near`: nothing is above. A place is 0 or more, pin i is -2 - i."""
_FREE, _CHOSEN, _PASSED = 0, 1, 2


class Choice(NamedTuple):
    """What was chosen and what was passed over; rows are candidates, places count from 0."""

    chosen: Ints
    """(c,) rows in the order in which they were chosen."""
    near: Ints
    """(c,) what above each is most like it: a place, -2 - i for pin i, or NOTHING."""
    likeness: Floats
    """(c,) how like it that is."""
    passed: Ints
    """(m,) the place that a row would have won were its cap not full; -1 for all others."""
    relaxed_from: int
    """Place from which on the caps were ignored; c when they held to the end."""


@compiled
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
) -> tuple[Ints, Ints, Floats, Ints, int]:
    """Return the fields of a Choice of at most k rows; equal values go to the better score.

    Fewer come back when there are fewer, or when the caps allow no more and `relax` is False.

    Shapes: scores (m,) finite, descending; numbers (m,) and pins (p,) index table (N, D), whose
    rows are L2-normalised or zero, and the codes categories and creators (N,), -1 for none. `caps`
    are the most items of a category and of a creator, 0 for no cap.
    """
    m, places = len(scores), min(k, len(scores))
    rows = np.concatenate((numbers, pins))
    compared = rows if method != BY_SCORE else rows[:0]
    ask_for(compared, table.ctypes.data, 4 * table.shape[1])
    base = _base(scores, method, weight)
    codes, counts = _codes(rows, categories, creators), np.zeros((2, m), np.int64)
    vectors = _gather(table, compared)
    nearest, likest, volume = np.full(m, NOTHING, np.int64), np.zeros(m), np.ones(m + len(pins))
    factor = np.empty((places + len(pins) if method == DPP else 0, m + len(pins)))
    state, passed = np.zeros(m + len(pins), np.uint8), np.full(m, -1, np.int64)
    rank = 0
    for pin in range(len(pins)):
        rank = _put(m + pin, -2 - pin, vectors, state, nearest, likest, factor, rank, volume)
        state[m + pin] = _CHOSEN
        _count(codes, m + pin, counts)
    chosen, near, likeness = (
        np.empty(places, np.int64),
        np.empty(places, np.int64),
        np.empty(places),
    )
    place, relaxed_from = 0, -1
    while place < places:
        row = _best(base, likest, volume, state, method, weight)
        if row < 0 and (relaxed_from >= 0 or not relax):
            break
        if row < 0:
            relaxed_from = place
            for other in range(m):
                state[other] = _FREE if passed[other] >= 0 else state[other]
        elif relaxed_from < 0 and _full(counts, row, caps):
            state[row], passed[row] = _PASSED, place
        else:
            chosen[place], near[place], likeness[place] = row, nearest[row], likest[row]
            state[row] = _CHOSEN
            place += 1
            if place < places:
                rank = _put(row, place - 1, vectors, state, nearest, likest, factor, rank, volume)
                _count(codes, row, counts)
    held = relaxed_from if relaxed_from >= 0 else place
    return chosen[:place], near[:place], likeness[:place], passed, held


@compiled
def _gather(table: NDArray[np.float32], rows: Ints) -> NDArray[np.float32]:
    found = np.empty((len(rows), table.shape[1]), np.float32)
    for row in range(len(rows)):
        for c in range(table.shape[1]):
            found[row, c] = table[rows[row], c]
    return found


@compiled
def _codes(
    rows: Ints, categories: NDArray[np.int32], creators: NDArray[np.int32]
) -> NDArray[np.int32]:
    found = np.empty((2, len(rows)), np.int32)
    for row in range(len(rows)):
        found[0, row], found[1, row] = categories[rows[row]], creators[rows[row]]
    return found


@compiled
def _base(scores: Floats, method: int, weight: float) -> Floats:
    """Return what of each row's value does not change: (m,) for MMR a term, for DPP a factor."""
    base = np.ones(len(scores))
    span = scores[0] - scores[-1] if len(scores) else 0.0
    for row in range(len(scores)):
        relevance = (scores[row] - scores[-1]) / span if span > 0 else 1.0
        if method == MMR:
            base[row] = weight * relevance
        elif method == DPP:
            # exp(equation 9 / (1 - weight)), which has the same order and needs no logarithm.
            base[row] = np.exp(weight / (1 - weight) * (relevance - 1))
    return base


@compiled
def _best(
    base: Floats,
    likest: Floats,
    volume: Floats,
    state: NDArray[np.uint8],
    method: int,
    weight: float,
) -> int:
    """Return the free row of the largest value, the first of equal ones; -1 when none is free."""
    best, largest = -1, 0.0
    for row in range(len(base)):
        if state[row] == _FREE:
            if method == BY_SCORE:
                return row
            if method == MMR:
                value = base[row] - (1 - weight) * likest[row]
            else:
                value = base[row] * max(volume[row], FLOOR)
            if best < 0 or value > largest:
                best, largest = row, value
    return best


@compiled
def _put(
    row: int,
    place: int,
    vectors: NDArray[np.float32],
    state: NDArray[np.uint8],
    nearest: Ints,
    likest: Floats,
    factor: Floats,
    rank: int,
    volume: Floats,
) -> int:
    """Take a row as above all that are not chosen yet; return the rank of the factor now."""
    if len(vectors) == 0:
        return rank
    likeness = np.zeros(len(vectors))
    for other in range(len(vectors)):
        if state[other] == _CHOSEN:
            continue
        total = 0.0
        for c in range(vectors.shape[1]):
            total += np.float64(vectors[other, c]) * np.float64(vectors[row, c])
        likeness[other] = total
    for other in range(len(nearest)):
        # With nothing above there is no penalty; a negative likeness then raises a value.
        if nearest[other] == NOTHING or likeness[other] > likest[other]:
            nearest[other], likest[other] = place, likeness[other]
    if len(factor) == 0 or volume[row] <= FLOOR:
        return rank
    side = np.sqrt(volume[row])
    column = factor[rank]
    for other in range(len(column)):
        column[other] = (1 + likeness[other]) / 2
    whole = rank - rank % 4
    for t in range(0, whole, 4):  # four at once: the column is read and written a quarter as often
        a, b, c, d = factor[t, row], factor[t + 1, row], factor[t + 2, row], factor[t + 3, row]
        for other in range(len(column)):
            column[other] -= (a * factor[t, other] + b * factor[t + 1, other]) + (
                c * factor[t + 2, other] + d * factor[t + 3, other]
            )
    for t in range(whole, rank):
        own = factor[t, row]
        for other in range(len(column)):
            column[other] -= own * factor[t, other]
    for other in range(len(column)):
        column[other] /= side
        volume[other] -= column[other] * column[other]
    return rank + 1


@compiled
def _count(codes: NDArray[np.int32], row: int, counts: Ints) -> None:
    """Count a row that is in the list against all of its category and of its creator."""
    for kind in range(2):
        if codes[kind, row] >= 0:
            for other in range(counts.shape[1]):
                counts[kind, other] += codes[kind, other] == codes[kind, row]


@compiled
def _full(counts: Ints, row: int, caps: tuple[int, int]) -> bool:
    return (caps[0] > 0 and counts[0, row] >= caps[0]) or (
        caps[1] > 0 and counts[1, row] >= caps[1]
    )
