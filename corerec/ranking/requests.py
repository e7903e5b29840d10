"""From ranking entries to a batch and its pair features, in torch: any device, and the oracle.

`compiled_requests.py` does the same on a CPU in a fraction of the time.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corerec.features import UserIndex
from corerec.live.numbers import LiveRows
from corerec.ranking.check import check_candidates
from corerec.ranking.features import RankingBatch, newest_history, pair_features, user_dense
from corerec.ranking.model import RankingModel
from corerec.ranking.prepare import make_batch
from corerec.ranking.tables import ItemTables, Scratch
from corerec.stages import Candidates, RankEntry, Source


class Requests(Protocol):
    """Lays entries out for a ranker, and reads the best of its scores; in any thread."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Look-ups of kept users, by outcome."""

    def lay(self, entries: Sequence[RankEntry]) -> tuple[RankingBatch, Tensor]:
        """Return a batch of entries that were checked, and its pair features (F, B, n).

        A request with fewer than n candidates has places at its end that mean nothing.
        """

    def best(self, scores: Tensor, counts: NDArray[np.int64], k: int) -> tuple[Tensor, Tensor]:
        """Return places and scores of the best k, best first, equal ones in the order given.

        Shapes: scores (B, n), of which each request has its own count (B,); results (B, min(k,
        n)). The place of a score that is not finite is -1; those come last.
        """

    def check(self, candidates: Candidates) -> None:
        """Raise InvalidArgument as `check_candidates` does."""

    def refresh(self, rows: NDArray[np.int64]) -> None:
        """Read rows (m,) of the tables anew, after they changed."""


class TorchRequests:
    """Computes each batch from nothing, on the device of the tables."""

    def __init__(
        self,
        tables: ItemTables,
        live: LiveRows,
        users: UserIndex,
        popularity: NDArray[np.float32],
        end_micros: int,
    ) -> None:
        """Take parts of one release; popularity (2, N + 1), of the blank row 0."""
        self._tables, self._live, self._users, self._end = tables, live, users, end_micros
        self._popularity = torch.from_numpy(popularity).to(tables.device)
        self._local = threading.local()

    @property
    def counts(self) -> Mapping[str, int]:
        """Nothing: no user is kept."""
        return {}

    def best(self, scores: Tensor, counts: NDArray[np.int64], k: int) -> tuple[Tensor, Tensor]:
        """Return places and scores of the best k; see `Requests.best`."""
        finite = torch.isfinite(scores)
        for row, count in enumerate(counts):
            if count < scores.shape[1]:
                finite[row, count:] = False
        held = torch.where(finite, scores, -torch.inf)
        best, order = held.sort(dim=1, descending=True, stable=True)
        best, order = best[:, :k], order[:, :k]
        return torch.where(torch.isfinite(best), order, -1), best

    def check(self, candidates: Candidates) -> None:
        """Raise InvalidArgument as `check_candidates` does."""
        check_candidates(candidates)

    def refresh(self, rows: NDArray[np.int64]) -> None:
        """Do nothing: the tables are read each time."""

    def lay(self, entries: Sequence[RankEntry]) -> tuple[RankingBatch, Tensor]:
        """Return a batch of entries and its pair features; see `Requests.lay`."""
        width = max(len(entry.candidates) for entry in entries)
        numbers = np.full((len(entries), width), len(self._tables), np.int64)  # rows of the tables
        scores = np.zeros((len(entries), width), np.float32)
        known = np.zeros((len(entries), width), np.bool_)
        for row, entry in enumerate(entries):
            own, count = entry.candidates, len(entry.candidates)
            numbers[row, :count] = self._live.candidates(own.numbers)
            scores[row, :count] = own.scores
            np.not_equal(own.sources, Source.POPULAR, out=known[row, :count])
        schema = self._tables.schema
        history, times = newest_history(
            schema,
            [self._live.history(entry.user.items) for entry in entries],
            [entry.user.times for entry in entries],
            self._tables.room,
        )
        now = np.array([entry.user.now or self._end for entry in entries], np.int64)
        users = schema.encode_users(
            [entry.user.user_id for entry in entries],
            [entry.user.attributes for entry in entries],
            self._users,
        )
        dense = user_dense(schema, users, history, times, now)
        counted = self._tables.trained(torch.from_numpy(numbers).to(self._tables.device))
        counts = torch.stack([torch.take(row, counted) for row in self._popularity])
        batch = make_batch(self._tables, users, dense, history, now, numbers, scores, known, counts)
        return batch, pair_features(self._tables, batch, self._scratch())

    def _scratch(self) -> Scratch:
        if not hasattr(self._local, "scratch"):
            self._local.scratch = Scratch(self._tables.device)
        scratch: Scratch = self._local.scratch
        return scratch


def requests_of(
    tables: ItemTables,
    live: LiveRows,
    users: UserIndex,
    popularity: NDArray[np.float32],
    end_micros: int,
    model: RankingModel,
) -> Requests:
    """Return what lays requests out on the device of the tables; see `TorchRequests`."""
    if tables.device.type != "cpu":
        return TorchRequests(tables, live, users, popularity, end_micros)
    # Loading numba takes a fraction of a second, and a GPU needs none of it.
    from corerec.ranking.compiled_requests import CompiledRequests

    return CompiledRequests(tables, live, users, popularity, end_micros, model)
