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
    codes, inside = _codes(rows, categories, creators), np.empty((2, places + len(pins)), np.int32)
    vectors, likeness = _gather(table, compared), np.zeros(len(rows))
    own = np.empty(table.shape[1])
    nearest, likest, volume = np.full(m, NOTHING, np.int64), np.zeros(m), np.ones(len(rows))
    factor = np.empty((places + len(pins) if method == DPP else 0, len(rows)))
    # left[:free] in the order of rows; left[free:end] wait, when caps relax, as their cap was full.
    left, free, end = np.arange(len(rows)), m, m
    rank, listed = 0, 0
    for pin in range(len(pins)):
        _compare(m + pin, -2 - pin, left, len(rows), vectors, own, likeness, nearest, likest)
        rank = _extend(m + pin, likeness, factor, rank, volume)
        listed = _list(codes, m + pin, inside, listed)
    chosen, near = np.empty(places, np.int64), np.empty(places, np.int64)
    like, passed = np.empty(places), np.full(m, -1, np.int64)
    place, relaxed_from = 0, -1
    while place < places:
        if free == 0 and relax and relaxed_from < 0:
            relaxed_from, free = place, end
            left[:end] = np.flatnonzero(passed >= 0)
        if free == 0:
            break
        at = _best(left, free, base, likest, volume, method, weight)
        row = left[at]
        free, end = free - 1, end - 1
        for later in range(at, end):
            left[later] = left[later + 1]
        if relaxed_from < 0 and _full(codes, row, inside, listed, caps):
            passed[row] = place
            if relax:
                left[end] = row
                end += 1
            continue
        chosen[place], near[place], like[place] = row, nearest[row], likest[row]
        listed = _list(codes, row, inside, listed)
        place += 1
        if place < places:
            _compare(row, place - 1, left, end, vectors, own, likeness, nearest, likest)
            rank = _extend(row, likeness, factor, rank, volume)
    held = relaxed_from if relaxed_from >= 0 else place
    return chosen[:place], near[:place], like[:place], passed, held


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
    left: Ints,
    free: int,
    base: Floats,
    likest: Floats,
    volume: Floats,
    method: int,
    weight: float,
) -> int:
    """Return where in left[:free] the row of the largest value is, the first of equal ones."""
    best, largest = 0, 0.0
    if method != BY_SCORE:
        for at in range(free):
            row = left[at]
            if method == MMR:
                value = base[row] - (1 - weight) * likest[row]
            else:
                value = base[row] * max(volume[row], FLOOR)
            if at == 0 or value > largest:
                best, largest = at, value
    return best


@compiled
def _compare(
    row: int,
    place: int,
    left: Ints,
    end: int,
    vectors: NDArray[np.float32],
    own: Floats,
    likeness: Floats,
    nearest: Ints,
    likest: Floats,
) -> None:
    """Take a row as above left[:end]: write how like they are, and for which it is the nearest.

    `own` (D,) is room for the row's vector. What it writes of rows that are not left is not read.
    """
    if len(vectors) == 0:
        return
    for c in range(len(own)):
        own[c] = vectors[row, c]
    for at in range(end):
        other, total = left[at], 0.0
        for c in range(len(own)):
            total += np.float64(vectors[other, c]) * own[c]
        likeness[other] = total
    for other in range(len(nearest)):
        # With nothing above there is no penalty; a negative likeness then raises a value.
        if nearest[other] == NOTHING or likeness[other] > likest[other]:
            nearest[other], likest[other] = place, likeness[other]


@compiled
def _extend(row: int, likeness: Floats, factor: Floats, rank: int, volume: Floats) -> int:
    """Add a row to the factor of what is above; return the factor's rank now."""
    if len(factor) == 0 or volume[row] <= FLOOR:
        return rank
    side = np.sqrt(volume[row])
    column = factor[rank]
    for other in range(len(column)):
        column[other] = (1 + likeness[other]) / 2
    whole = rank - rank % 4
    for t in range(0, whole, 4):
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
def _list(codes: NDArray[np.int32], row: int, inside: NDArray[np.int32], count: int) -> int:
    """Write a row's codes behind the `count` of those in the list; return their number now."""
    inside[0, count], inside[1, count] = codes[0, row], codes[1, row]
    return count + 1


@compiled
def _full(
    codes: NDArray[np.int32],
    row: int,
    inside: NDArray[np.int32],
    listed: int,
    caps: tuple[int, int],
) -> bool:
    """Return whether the list, whose codes are inside[:, :listed], has all that a cap allows."""
    for kind in range(2):
        cap, count = caps[kind], 0
        if cap > 0 and codes[kind, row] >= 0:
            for at in range(listed):
                count += inside[kind, at] == codes[kind, row]
            if count >= cap:
                return True
    return False
