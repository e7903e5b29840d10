"""How a batch of entries becomes places and scores of its best candidates, on a CPU or a GPU."""

# B requests, n candidates, k kept

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from corerec.features import UserIndex
from corerec.live.numbers import LiveRows
from corerec.ranking.best import best
from corerec.ranking.compiled_requests import CompiledRequests
from corerec.ranking.laid import LaidArrays
from corerec.ranking.precision import Ranker
from corerec.ranking.requests import stable_best
from corerec.stages import RankEntry

CPU_PAIRS = 8192
"""Pairs that are computed at once on a CPU: fewer and the calls cost more than the arithmetic, more
and the arrays leave the caches."""
MOST_REQUESTS = 256
"""Requests that share a matrix at most."""


class Best(NamedTuple):
    """The best candidates of B requests."""

    places: NDArray[np.integer]
    """(B, k) places among a request's candidates, best first; -1 where a score is not finite"""
    scores: NDArray[np.float32]
    """(B, k)"""
    refused: NDArray[np.bool_]
    """(B,) whether candidates break a rule of `check_candidates`"""
    timings: dict[str, int]
    """Microseconds by step name"""


class Batches(Protocol):
    """Computes batches of one release, one at a time."""

    pairs: int
    """Most candidates of a batch, unless of one request"""
    most: int
    """Most requests of a batch"""

    @property
    def counts(self) -> Mapping[str, int]:
        """What is counted, by name."""

    def best(self, entries: Sequence[RankEntry], k: int) -> Best:
        """Return the best of entries of at least a candidate, whose columns are as long."""

    def refresh(self, rows: NDArray[np.int64]) -> None:
        """Read rows (m,) of the tables anew, after they changed."""

    def warm(self) -> None:
        """Get ready for batches of every size."""


class HostBatches:
    """Computes on a CPU; compiled, but for networks that only torch computes."""

    pairs, most = CPU_PAIRS, MOST_REQUESTS

    def __init__(
        self,
        ranker: Ranker,
        live: LiveRows,
        users: UserIndex,
        popularity: NDArray[np.float32],
        end_micros: int,
    ) -> None:
        """Take parts of one release; popularity (2, N + 1), of the blank row 0."""
        self._ranker, model = ranker, ranker.model
        self._requests = CompiledRequests(ranker.tables, live, users, popularity, end_micros, model)
        self._calibration: tuple[float, float] = tuple(model.calibration[0].tolist())
        self._by_probability = model.ranks_by_probability
        self.refresh = self._requests.refresh

    @property
    def counts(self) -> Mapping[str, int]:
        """Look-ups of kept users, by outcome."""
        return self._requests.counts

    def warm(self) -> None:
        """Do nothing: batches of all sizes run the same code."""

    def best(self, entries: Sequence[RankEntry], k: int) -> Best:
        """Return the best of entries; see `Batches.best`."""
        begin = time.perf_counter_ns()
        laid = self._requests.lay(entries)
        middle = time.perf_counter_ns()
        places, scores = self._order(laid, k)
        end = time.perf_counter_ns()
        timings = {"features": (middle - begin) // 1000, "score": (end - middle) // 1000}
        return Best(places, scores, laid.counts < 0, timings)

    def _order(self, laid: LaidArrays, k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        model = self._ranker.model
        logits = self._ranker.logits(laid)
        # The probability of one task has the order of its logits: few need to be computed.
        if logits is not None and self._by_probability:
            return best(logits[0], laid.counts, k, self._calibration)
        with torch.inference_mode():
            scores = model.score(
                self._ranker(*laid.tensors()) if logits is None else torch.from_numpy(logits)
            )
            order, found = stable_best(scores, torch.from_numpy(laid.counts), k)
        return order.numpy(), found.numpy()
