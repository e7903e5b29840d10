"""Mines the ranker's cases: what came next, against what retrieval would really have given."""

# B cases, P popular, n negatives, L events

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from corerec.errors import ConfigError, CoreRecError
from corerec.evaluation.cases import Cases
from corerec.ranking.examples import RankingExamples
from corerec.retrieval.core import RetrievalCore
from corerec.stages import MAX_K, Float32s, Int64s, RetrieveEntry, Source, UserContext

_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class MiningConfig:
    """How the ranker's cases are made."""

    max_cases: int = 30_000
    """Most cases to learn from, drawn at random."""
    validation_cases: int = 2_000
    """Most cases to stop by."""
    depth: int = 500
    """A negative is hard when it is among the so many that retrieval brings, at most 2000."""
    near: int = 100
    """Half of the hard negatives come from the best so many, where the list is decided."""
    hard: int = 20
    """Hard negatives of a case."""
    sampled: int = 4
    """Negatives of a case from the whole catalogue."""

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        for name in ("max_cases", "validation_cases", "depth", "near", "hard", "sampled"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.depth > MAX_K:
            raise ConfigError(f"depth must be at most {MAX_K}, got {self.depth}")


def mine(
    cases: Cases,
    retrieval: RetrievalCore,
    config: MiningConfig,
    *,
    contexts: Callable[[Cases, Int64s], list[UserContext]],
    item_count: int,
    history_length: int,
    rng: np.random.Generator,
    labels: Float32s | None = None,
    report: Callable[[int, int], None] | None = None,
) -> RankingExamples:
    """Return the cases whose next item retrieval would have found, with negatives.

    Retrieval is asked as in service, all sources fused. Cases that it would have missed are left
    out: in service the ranker never meets them. `contexts` gives what requests at the moments of
    these rows of the cases would have carried. `labels` (C, T) are those of the ranker's tasks.
    """
    kept, candidates, scores, retrieved = [], [], [], []
    for start in range(0, len(cases), _BATCH):
        rows = np.arange(start, min(start + _BATCH, len(cases)))
        users = contexts(cases, rows)
        found, popular = _candidates(retrieval, users, config.depth)
        right = cases.right[rows]
        reached = (found == right[:, None]).any(1)
        negatives = _negatives(found, right, item_count, config, rng)
        chosen = np.concatenate([right[:, None], negatives], axis=1)[reached]  # (B, 1 + n)
        users = [user for user, own in zip(users, reached, strict=True) if own]
        score = retrieval.score(users, chosen)
        kept.append(rows[reached])
        candidates.append(chosen)
        scores.append(np.where(np.isfinite(score), score, 0))
        # Serving marks what only the popular list brought; so must the cases.
        filled = popular[reached][:, None, :] == chosen[:, :, None]  # (B, 1 + n, P)
        retrieved.append(~filled.any(2) & np.isfinite(score))
        if report is not None:
            report(int(rows[-1]) + 1, len(cases))
    rows = np.concatenate(kept) if kept else np.empty(0, np.int64)
    width = 1 + config.hard + config.sampled
    all_scores = np.concatenate(scores) if scores else np.empty((0, width), np.float32)
    history, times = _newest(cases, rows, history_length)
    return RankingExamples(
        user_row=cases.user_row[rows] + 1,
        history=history,
        history_times=times,
        now=cases.now[rows],
        candidates=np.concatenate(candidates) if candidates else np.empty((0, width), np.int64),
        retrieval_scores=all_scores.astype(np.float32),
        retrieved=np.concatenate(retrieved) if retrieved else np.empty((0, width), np.bool_),
        labels=None if labels is None else labels[rows],
    )


def _candidates(
    retrieval: RetrievalCore, users: list[UserContext], depth: int
) -> tuple[Int64s, Int64s]:
    """Return (B, depth) candidates, best first, and (B, P) those of them from the popular list.

    Missing ones are -1 among the candidates and -2 among the popular ones.
    """
    found = np.full((len(users), depth), -1, np.int64)
    popular = np.full((len(users), depth), -2, np.int64)
    most = 0
    for row, result in enumerate(retrieval.run([RetrieveEntry(user=u, k=depth) for u in users])):
        if isinstance(result, CoreRecError):
            raise result
        own = result.candidates
        found[row, : len(own)] = own.numbers
        filled = own.numbers[own.sources == Source.POPULAR]
        popular[row, : len(filled)] = filled
        most = max(most, len(filled))
    return found, popular[:, :most]


def _negatives(
    found: Int64s, right: Int64s, item_count: int, config: MiningConfig, rng: np.random.Generator
) -> Int64s:
    """Return (B, n): half of the hard ones from the nearest, the rest deeper, then random items."""
    near = config.hard // 2
    width = found.shape[1]
    places = np.concatenate(
        [
            rng.integers(0, min(config.near, width), (len(found), near)),
            rng.integers(0, width, (len(found), config.hard - near)),
        ],
        axis=1,
    )
    hard = np.take_along_axis(found, places, axis=1)
    chosen = np.concatenate(
        [hard, rng.integers(0, item_count, (len(found), config.sampled))], axis=1
    )
    # Where a draw was padding or the right item itself, another random item takes its place.
    for _ in range(8):
        bad = (chosen < 0) | (chosen == right[:, None])
        if not bad.any():
            break
        chosen[bad] = rng.integers(0, item_count, int(bad.sum()))
    return chosen


def _newest(cases: Cases, rows: Int64s, length: int) -> tuple[Int64s, Int64s]:
    """Return the newest items and times before each case, (B, L), padded with -1 on the left."""
    at = cases.before[rows][:, None] - length + np.arange(length)
    inside = at >= cases.first[rows][:, None]
    at = np.maximum(at, 0)
    if not len(cases.items):
        return np.full(at.shape, -1, np.int64), np.full(at.shape, -1, np.int64)
    return np.where(inside, cases.items[at], -1), np.where(inside, cases.times[at], -1)
