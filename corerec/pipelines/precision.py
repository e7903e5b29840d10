"""The precision gate: how far the ranker's faster forms are from fp32, measured before a release.

The validation cases are ranked in each precision, from the same candidates. NDCG@10 is taken twice.
Once for each case's right item: what users wanted, but a few hundred cases tell it to half a
percent at best. And once with fp32's own probabilities for how right an item is, which tells to a
thousandth of a percent what another order costs.
"""

# C cases, n candidates

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from corerec.errors import ConfigError, CoreRecError
from corerec.ranking.core import RankingCore
from corerec.ranking.gate import Measured, PrecisionLimits, PrecisionReport, fastest_of
from corerec.ranking.instructions import instructions_of
from corerec.ranking.precision import Precision
from corerec.retrieval.core import RetrievalCore
from corerec.stages import MAX_K, Int64s, RankEntry, RankResult, RetrieveEntry, UserContext

Floats = NDArray[np.float64]
_BATCH = 32
_TOP, _LISTED = 100, 10


@dataclass(frozen=True, kw_only=True)
class PrecisionConfig:
    """The gate that a precision other than fp32 has to pass."""

    cases: int = 500
    """Most validation cases that are ranked, drawn at random; 0 measures nothing: fp32 alone."""
    candidates: int = 500
    """Candidates of a case, [1, 2000]."""
    limits: PrecisionLimits = field(default_factory=PrecisionLimits)

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        if self.cases < 0:
            raise ConfigError(f"cases must be at least 0, got {self.cases}")
        if not 1 <= self.candidates <= MAX_K:
            raise ConfigError(f"candidates must be in [1, {MAX_K}], got {self.candidates}")


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """What a core made of the candidates of C cases, n at most, which came in some order."""

    scores: Floats
    """(C, n) by place in that order; 0 where there is no candidate, or no finite score."""
    order: Int64s
    """(C, n) places, best first; -1 behind the last that has a score."""
    pairs_per_second: float
    """Candidates a second of CPU time."""


def measure_precisions(
    core: RankingCore,
    retrieval: RetrievalCore,
    users: Sequence[UserContext],
    right: Int64s,
    config: PrecisionConfig,
) -> PrecisionReport | None:
    """Return what each precision is against fp32; None where retrieval finds nothing to rank.

    Shapes: users and right, the item that each wanted, (C,). `core` ranks in fp32.
    """
    entries = _retrieve(retrieval, users, config.candidates)
    if not any(len(entry.candidates) for entry in entries):
        return None
    places = _places(entries, right)
    exact = rank(core, entries)
    measured: dict[Precision, Measured] = {
        "fp32": Measured(allowed=True, pairs_per_second=exact.pairs_per_second)
    }
    for precision in core.precisions:
        if precision != "fp32":
            fast = rank(core.in_precision(precision), entries)
            measured[precision] = compare(exact, fast, places, config.limits)
    return PrecisionReport(
        recommended=fastest_of(measured),
        instructions=tuple(sorted(instructions_of(core.device))),
        cases=len(entries),
        limits=config.limits,
        measured=measured,
    )


def compare(exact: Ranked, fast: Ranked, right: Int64s, limits: PrecisionLimits) -> Measured:
    """Return what a precision is against fp32, and whether it is within the limits.

    Shapes: right (C,) places of the right items in retrieval's order, -1 where it has none.
    """
    before, after = (_gains(own, right) for own in (exact, fast))
    mean, change = float(before.mean()), after - before
    expected = _expected(exact, exact.order)
    lost = _expected(exact, fast.order) - expected
    found = Measured(
        allowed=False,
        max_score_deviation=float(np.abs(exact.scores - fast.scores).max()),
        ndcg_change=float(change.mean()) / mean if mean else 0.0,
        ndcg_error=float(change.std()) / math.sqrt(len(change)) / mean if mean else 0.0,
        expected_ndcg_change=lost / expected if expected else 0.0,
        rank_overlap=_overlap(exact.order, fast.order),
        pairs_per_second=fast.pairs_per_second,
    )
    return replace(found, allowed=found.within(limits))


def rank(core: RankingCore, entries: Sequence[RankEntry]) -> Ranked:
    """Return what a core makes of all candidates of entries, after it was warmed."""
    width = max(len(entry.candidates) for entry in entries)
    scores, order = np.zeros((len(entries), width)), np.full((len(entries), width), -1)
    core.warm()
    results: list[RankResult | CoreRecError] = []
    begin = time.process_time()
    for start in range(0, len(entries), _BATCH):
        results += core.run(entries[start : start + _BATCH])
    seconds = time.process_time() - begin
    for row, (entry, result) in enumerate(zip(entries, results, strict=True)):
        if isinstance(result, CoreRecError):  # no score of the case is finite
            continue
        numbers, own = entry.candidates.numbers, result.candidates
        by_number = np.argsort(numbers)
        places = by_number[np.searchsorted(numbers, own.numbers, sorter=by_number)]
        order[row, : len(places)], scores[row, places] = places, own.scores
    pairs = sum(len(entry.candidates) for entry in entries)
    return Ranked(scores=scores, order=order, pairs_per_second=pairs / max(seconds, 1e-9))


def _retrieve(
    retrieval: RetrievalCore, users: Sequence[UserContext], count: int
) -> list[RankEntry]:
    entries = []
    for start in range(0, len(users), _BATCH):
        some = users[start : start + _BATCH]
        for user, found in zip(
            some, retrieval.run([RetrieveEntry(user=user, k=count) for user in some]), strict=True
        ):
            if isinstance(found, CoreRecError):
                raise found
            entries.append(
                RankEntry(user=user, candidates=found.candidates, k=max(1, len(found.candidates)))
            )
    return entries


def _places(entries: Sequence[RankEntry], right: Int64s) -> Int64s:
    """Return the place of each case's right item among its candidates, -1 where it is not."""
    found = np.full(len(entries), -1)
    for row, (entry, item) in enumerate(zip(entries, right.tolist(), strict=True)):
        at = np.flatnonzero(entry.candidates.numbers == item)
        found[row] = at[0] if len(at) else -1
    return found


def _gains(ranked: Ranked, right: Int64s) -> Floats:
    """Return each case's NDCG@10."""
    lists = np.where(right[:, None] < 0, -1, ranked.order[:, :_LISTED])
    hits = (lists == right[:, None]) & (lists >= 0)
    gains: Floats = hits @ _discounts(lists.shape[1])
    return gains


def _expected(exact: Ranked, order: Int64s) -> float:
    """Return the mean DCG@10 of an order whose items are right as often as fp32 says."""
    top = order[:, :_LISTED]
    worth = np.take_along_axis(exact.scores, np.maximum(top, 0), axis=1)
    return float((np.where(top >= 0, worth, 0.0) @ _discounts(top.shape[1])).mean())


def _discounts(count: int) -> Floats:
    found: Floats = 1.0 / np.log2(2.0 + np.arange(count))
    return found


def _overlap(exact: Int64s, fast: Int64s) -> float:
    """Return the mean share of the first 100 of one order that the other has there too."""
    shares = []
    for one, other in zip(exact[:, :_TOP], fast[:, :_TOP], strict=True):
        one = one[one >= 0]
        if len(one):
            shares.append(np.isin(one, other).mean())
    return float(np.mean(shares))
