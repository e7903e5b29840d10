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

# Up to so many candidates one product of all pairs is faster than one product for each choice.
_TABLE_ROWS = 256


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
    marginal = _Marginal(scores, vectors, mmr_lambda, above)
    for row in chosen:
        marginal.remove(row)
        marginal.put_above(row)
    counted = len(chosen)
    for _ in range(len(scores) - len(chosen)):
        if len(chosen) > counted:
            marginal.put_above(chosen[-1])
            counted = len(chosen)
        row = marginal.best()
        marginal.remove(row)
        yield row


class _Marginal:
    """The value of each candidate, given what is above."""

    def __init__(
        self,
        scores: NDArray[np.float64],
        vectors: NDArray[np.float32],
        mmr_lambda: float,
        above: NDArray[np.float32] | None,
    ) -> None:
        self._base = (mmr_lambda * _relevance(scores)).astype(np.float32)
        self._vectors = vectors
        self._penalties = vectors * np.float32(1 - mmr_lambda)  # (n, D)
        self._table: NDArray[np.float32] | None = None  # (n, n)
        if len(scores) <= _TABLE_ROWS:
            self._table = self._base - vectors @ self._penalties.T
        self._removed: list[int] = []
        self._values = self._base.copy()
        self._nothing_above = above is None or len(above) == 0
        if above is not None and len(above):
            self._values = self._base - (self._penalties @ above.T).max(axis=1)

    def best(self) -> int:
        return int(self._values.argmax())

    def remove(self, row: int) -> None:
        self._removed.append(row)
        self._values[row] = -np.inf

    def put_above(self, row: int) -> None:
        if self._table is not None:
            values = self._table[row].copy()
        else:
            values = self._base - self._penalties @ self._vectors[row]
        if self._nothing_above:
            # With nothing above there is no penalty; a negative likeness then raises a value.
            self._values = values
            self._values[self._removed] = -np.inf
            self._nothing_above = False
        else:
            # The largest likeness leaves the smallest value; -inf stays -inf.
            np.minimum(self._values, values, out=self._values)


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
