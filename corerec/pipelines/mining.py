"""Mines the ranker's cases: what came next, against what retrieval would really have given."""

# B cases, K found, n negatives, L events

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corerec.errors import ConfigError
from corerec.evaluation.cases import Cases
from corerec.features import UserFeatures
from corerec.ranking.examples import RankingExamples
from corerec.retrieval.encoder import QueryEncoder
from corerec.retrieval.index import ItemIndex
from corerec.stages import Float32s, Int64s

_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class MiningConfig:
    """How the ranker's cases are made."""

    max_cases: int = 30_000
    """Most cases to learn from, drawn at random."""
    validation_cases: int = 2_000
    """Most cases to stop by."""
    depth: int = 500
    """A negative is hard when it is among so many of the two-tower's best."""
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


@dataclass(frozen=True, kw_only=True)
class Retriever:
    """What retrieval serves from, as of the moment that the ranker's cases begin."""

    encoder: QueryEncoder
    index: ItemIndex
    vectors: Float32s
    """(N, D) by item number."""
    popular: Int64s
    """(P,) item numbers, best first."""
    popular_share: float
    """Share of the places that the popular list fills."""


def mine(
    cases: Cases,
    retriever: Retriever,
    users: UserFeatures,
    config: MiningConfig,
    *,
    history_length: int,
    rng: np.random.Generator,
    report: Callable[[int, int], None] | None = None,
) -> RankingExamples:
    """Return the cases whose next item retrieval would have found, with negatives.

    Cases that it would have missed are left out: in service the ranker never meets them.

    `users` is the table of all users, row 0 unknown.
    """
    vectors = retriever.vectors
    kept, candidates, scores, retrieved = [], [], [], []
    for start in range(0, len(cases), _BATCH):
        rows = np.arange(start, min(start + _BATCH, len(cases)))
        queries = retriever.encoder.encode(
            cases.histories(rows), users.take(cases.user_row[rows] + 1), cases.now[rows]
        )
        found, places = _candidates(retriever, queries, cases, rows, config.depth)
        right = cases.right[rows]
        reached = (found == right[:, None]).any(1)
        negatives = _negatives(found, right, len(vectors), config, rng)
        chosen = np.concatenate([right[:, None], negatives], axis=1)[reached]  # (B, 1 + n)
        kept.append(rows[reached])
        candidates.append(chosen)
        # Serving marks what only the popular list brought; so must the cases.
        filled = found[reached][:, None, places:] == chosen[:, :, None]  # (B, 1 + n, places)
        retrieved.append(~filled.any(2))
        scores.append(np.einsum("bnd,bd->bn", vectors[chosen], queries[reached]))
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
    )


def _candidates(
    retriever: Retriever, queries: Float32s, cases: Cases, rows: Int64s, depth: int
) -> tuple[Int64s, int]:
    """Return (B, K) unseen items as retrieval fuses them, and where the popular ones begin.

    More are asked for than needed and the seen ones dropped, in one search for the whole batch:
    here nothing depends on getting exactly `depth`. Missing ones are -1.
    """
    index, popular = retriever.index, retriever.popular
    numbers, _ = index.search(queries, min(index.count, depth + depth // 5))
    taken = np.zeros((len(rows), index.count), np.bool_)
    for row, history in enumerate(cases.histories(rows)):
        taken[row, history] = True
    fill = min(int(depth * retriever.popular_share), len(popular))
    head = _first_free(numbers, taken, depth - fill)
    np.put_along_axis(taken, np.maximum(head, 0), True, axis=1)
    wide = np.broadcast_to(popular[: fill + depth], (len(rows), len(popular[: fill + depth])))
    extra = _first_free(wide, taken, fill)
    return np.concatenate([head, extra], axis=1), head.shape[1]


def _first_free(numbers: Int64s, taken: NDArray[np.bool_], count: int) -> Int64s:
    """Return (B, count) the first numbers of each row that are not taken, -1 where too few."""
    hidden = np.take_along_axis(taken, np.maximum(numbers, 0), axis=1) | (numbers < 0)
    # A stable sort by "hidden" moves the free ones to the front in their order.
    order = np.argsort(hidden, axis=1, kind="stable")[:, :count]
    chosen = np.take_along_axis(numbers, order, axis=1)
    return np.where(np.take_along_axis(hidden, order, axis=1), -1, chosen)


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
