"""Greedy maximal marginal relevance under caps, on arrays.

Source: Carbonell and Goldstein, "The use of MMR, diversity-based reranking", SIGIR 1998. Each
place goes to the candidate with the largest

    mmr_lambda * relevance - (1 - mmr_lambda) * max(similarity to what was chosen before)

where relevance is the score scaled to [0, 1]. A candidate whose category or creator is full is
passed over when its turn comes. Equal values go to the better score.

Letters: n candidates, D dimensions, p items that are in the list already.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """One kind of cap: at most `cap` chosen items of each code."""

    codes: NDArray[np.int32]
    """(n,) code of each candidate; -1 is not capped."""
    cap: int
    """Most items of one code, at least 1."""
    taken: Sequence[int] = ()
    """Codes of what is in the list already."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What was chosen and what was passed over; rows are candidates, places count from 0."""

    chosen: list[int]
    """Rows in the order in which they were chosen."""
    passed: dict[int, int]
    """The place that each row would have won were its cap not full."""
    relaxed_from: int
    """Place from which on the caps were ignored; len(chosen) when they held to the end."""


def select(
    scores: NDArray[np.float64],
    vectors: NDArray[np.float32] | None,
    *,
    mmr_lambda: float,
    k: int,
    groups: Sequence[Group] = (),
    above: NDArray[np.float32] | None = None,
    relax: bool = False,
) -> Selection:
    """Return at most k rows of candidates, chosen one by one.

    Fewer come back when there are fewer, or when the caps allow no more and `relax` is False.

    Shapes: scores (n,) finite, descending; vectors (n, D), L2-normalised, None for the order by
    score; above (p, D), vectors of what is in the list already.
    """
    caps = _Caps(groups)
    chosen: list[int] = []
    passed: dict[int, int] = {}
    turns = _turns(scores, vectors, mmr_lambda, chosen, above)
    while len(chosen) < k and (row := next(turns, None)) is not None:
        if caps.is_full(row):
            passed[row] = len(chosen)
        else:
            caps.take(row)
            chosen.append(row)
    relaxed_from = len(chosen)
    if relax and len(chosen) < k:
        turns = _turns(scores, vectors, mmr_lambda, chosen, above)
        while len(chosen) < k and (row := next(turns, None)) is not None:
            chosen.append(row)
    return Selection(chosen=chosen, passed=passed, relaxed_from=relaxed_from)


def _turns(
    scores: NDArray[np.float64],
    vectors: NDArray[np.float32] | None,
    mmr_lambda: float,
    chosen: list[int],
    above: NDArray[np.float32] | None,
) -> Iterator[int]:
    """Yield each row that is not in `chosen` once, by the value it has when its turn comes.

    The caller appends a row that it takes to `chosen` before it asks for the next one.
    """
    if vectors is None:
        before = set(chosen)
        yield from (row for row in range(len(scores)) if row not in before)
        return
    base = (mmr_lambda * _relevance(scores)).astype(np.float32)
    penalties = vectors * np.float32(1 - mmr_lambda)  # (n, D)
    value = base.copy()
    present = vectors[chosen] if above is None else np.concatenate([above, vectors[chosen]])
    if len(present):
        value -= (penalties @ present.T).max(axis=1)
    value[chosen] = -np.inf
    counted = len(chosen)
    alone = not len(present)
    for _ in range(len(scores) - len(chosen)):
        if len(chosen) > counted:
            counted = len(chosen)
            # The largest likeness leaves the smallest difference; -inf stays -inf.
            marginal = base - penalties @ vectors[chosen[-1]]
            if alone:
                np.copyto(value, marginal, where=value != -np.inf)
                alone = False
            else:
                np.minimum(value, marginal, out=value)
        row = int(value.argmax())
        yield row
        value[row] = -np.inf


def _relevance(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(scores) == 0 or (span := scores[0] - scores[-1]) == 0:
        return np.ones_like(scores)
    relevance: NDArray[np.float64] = (scores - scores[-1]) / span
    return relevance


class _Caps:
    """How many items of each code are in the list."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups: list[tuple[list[int], int, dict[int, int]]] = []
        for group in groups:
            counts: dict[int, int] = {}
            for code in group.taken:
                counts[code] = counts.get(code, 0) + 1
            self._groups.append((group.codes.tolist(), group.cap, counts))

    def is_full(self, row: int) -> bool:
        return any(
            codes[row] >= 0 and counts.get(codes[row], 0) >= cap
            for codes, cap, counts in self._groups
        )

    def take(self, row: int) -> None:
        for codes, _, counts in self._groups:
            counts[codes[row]] = counts.get(codes[row], 0) + 1
