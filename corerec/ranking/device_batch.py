"""From a batch's columns on a device to its best candidates: sizes depend on shapes alone.

Nothing waits for the device or reads from it, so all of this can be captured as a graph
(`graphs.py`). `requests.py` has the plain form, which reads entries one by one on the host.
"""

# B requests, n candidates, k kept, N items of the training, R rows of the tables

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corerec.ranking.branches import aside
from corerec.ranking.features import RankingBatch, pair_features
from corerec.ranking.precision import Ranker
from corerec.ranking.requests import stable_best
from corerec.ranking.staging import Columns
from corerec.ranking.tables import Scratch
from corerec.stages import Source


class Found(NamedTuple):
    """What is found of B requests."""

    places: Tensor
    """(B, k) places of the best candidates, best first, -1 where a score is not finite"""
    scores: Tensor
    """(B, k)"""
    refused: Tensor
    """(B,) bool: whether candidates break a rule of `check_candidates`"""


class DeviceBatch:
    """Computes batches over one release's tables."""

    def __init__(self, ranker: Ranker, popularity: NDArray[np.float32], sums: int) -> None:
        """Take popularity (2, N + 1), of the blank row 0; `sums` is the room of the scratch."""
        self._ranker, self._tables = ranker, ranker.tables
        self._popularity = torch.from_numpy(popularity).to(self._tables.device)
        self._scratch = Scratch(self._tables.device, sums)
        self._filled = torch.arange(self._tables.room, device=self._tables.device) < len(
            self._tables
        )

    @property
    def outgrown(self) -> bool:
        """Whether the tables were made anew since they were looked at."""
        return self._tables.room != len(self._filled)

    def refresh(self, rows: NDArray[np.int64]) -> bool:
        """Know rows (m,) of the tables from now on; return whether there are new tables."""
        more = self._tables.room - len(self._filled)
        if more > 0:
            self._filled = torch.nn.functional.pad(self._filled, (0, more))
        self._filled[torch.from_numpy(rows).to(self._filled.device)] = True
        return more > 0

    def __call__(self, columns: Columns, k: int) -> Found:
        """Return the best k (k <= n) of every request; equal scores keep their order."""
        numbers = columns.numbers
        there = torch.arange(numbers.shape[1], device=numbers.device) < columns.counts[:, None]
        refused = aside(0, numbers.device, lambda: _refused(columns, there))
        batch = self._batch(columns, there)
        pairs = pair_features(self._tables, batch, self._scratch)
        scores = self._ranker.model.score(self._ranker(batch, pairs))
        places, found = stable_best(scores, columns.counts, k)
        return Found(places, found, refused())

    def _batch(self, columns: Columns, there: Tensor) -> RankingBatch:
        """Return the batch; `there` (B, n) says which places have candidates."""
        blank, numbers = len(self._tables), columns.numbers
        rows = numbers + (numbers >= blank)  # row N is the blank one
        inside = (rows >= 0) & (rows < len(self._filled)) & there
        rows = torch.where(inside, rows, blank)
        candidates = torch.where(torch.take(self._filled, rows), rows, blank)
        counted = candidates.clamp(max=blank)  # nobody has counted what came later
        return RankingBatch(
            user_row=columns.user_row,
            user_categorical=columns.user_categorical,
            user_dense=columns.user_dense,
            history=torch.where(columns.history < 0, blank, columns.history),
            now=columns.now,
            candidates=candidates,
            scores=columns.scores,
            retrieved=(columns.sources != Source.POPULAR) & there,
            popularity=torch.stack([torch.take(row, counted) for row in self._popularity]),
        )


def _refused(columns: Columns, there: Tensor) -> Tensor:
    """Return which requests (B,) have a number below 0 or twice, or a score that is not finite."""
    bad = (columns.numbers < 0) | ~torch.isfinite(columns.scores)
    ascending = torch.where(there, columns.numbers, torch.iinfo(torch.int64).max).sort(1).values
    twice = (ascending[:, 1:] == ascending[:, :-1]) & there[:, 1:]
    refused: Tensor = (bad & there).any(1) | twice.any(1)
    return refused
