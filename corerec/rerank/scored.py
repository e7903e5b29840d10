"""One entry after the rules that need no list: who is blocked, pinned, and scored how."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corerec.live.catalogue import LiveCatalogue
from corerec.rerank.compiled import CompiledRules, freshness_of, scale
from corerec.stages import Candidates, Int64s


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One rule's effect on all candidates of an entry."""

    rule: str
    """freshness or boost."""
    kind: str
    """category or creator for a boost, else empty."""
    factors: NDArray[np.float64]
    """(n,) factor that each score was moved by."""
    changes: NDArray[np.float64]
    """(n,) change of each score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """The n candidates of an entry with their scores after freshness and boosts."""

    candidates: Candidates
    """The candidates as they came."""
    now: int
    """Moment of the request, microseconds since 1970; 0 is unknown."""
    scores: NDArray[np.float64]
    """(n,) scores after the rules."""
    steps: tuple[Step, ...]
    """The rules that moved scores, in order."""
    blocked: NDArray[np.bool_]
    """(n,) whether a candidate is never shown: on the block list, or deleted."""
    order: NDArray[np.int64]
    """Rows of the candidates that are neither blocked nor pinned, best score first."""
    pins: tuple[tuple[int, int], ...]
    """(position from 1, item number) of the pins that are neither blocked nor deleted, by
    position."""


def score_entry(
    candidates: Candidates, now: int, compiled: CompiledRules, catalogue: LiveCatalogue
) -> Scored:
    """Apply block list, pins, freshness and boosts, in this order."""
    numbers = candidates.numbers
    deleted = catalogue.deleted
    blocked = compiled.blocked[numbers] | deleted[numbers]
    pins = tuple(pin for pin in compiled.pins if not (compiled.blocked[pin[1]] or deleted[pin[1]]))
    placed = blocked
    if pins:
        placed = blocked | np.isin(numbers, [number for _, number in pins])
    scores = candidates.scores.astype(np.float64)
    steps = []
    for rule, kind, factors in _factors(numbers, now, compiled, catalogue):
        moved = scale(scores, factors)
        steps.append(Step(rule=rule, kind=kind, factors=factors, changes=moved - scores))
        scores = moved
    free = np.flatnonzero(~placed)
    return Scored(
        candidates=candidates,
        now=now,
        scores=scores,
        steps=tuple(steps),
        blocked=blocked,
        order=free[np.argsort(-scores[free], kind="stable")],
        pins=pins,
    )


def _factors(
    numbers: Int64s, now: int, compiled: CompiledRules, catalogue: LiveCatalogue
) -> list[tuple[str, str, NDArray[np.float64]]]:
    rules, factors = compiled.rules, []
    if rules.freshness.weight > 0:
        born = catalogue.born_micros[numbers]
        fresh, _ = freshness_of(born, now, rules.freshness.half_life_days)
        factors.append(("freshness", "", 1.0 + rules.freshness.weight * fresh))
    if rules.boosts.categories:
        codes = catalogue.category_codes[numbers]
        factors.append(("boost", "category", compiled.category_factors[codes]))
    if rules.boosts.creators:
        codes = catalogue.creator_codes[numbers]
        factors.append(("boost", "creator", compiled.creator_factors[codes]))
    return factors
