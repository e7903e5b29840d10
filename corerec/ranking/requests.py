"""From ranking entries to a batch and its pair features, plainly: what faster forms must equal.

`compiled_requests.py` does the same on a CPU in a fraction of the time, `staging.py` and
`device_batch.py` on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corerec.features import UserIndex
from corerec.live.numbers import LiveRows
from corerec.ranking.check import keeps_rules
from corerec.ranking.features import RankingBatch, pair_features
from corerec.ranking.prepare import make_batch
from corerec.ranking.staging import People
from corerec.ranking.tables import ItemTables, Scratch
from corerec.stages import RankEntry, Source


@dataclass(frozen=True, kw_only=True)
class LaidTensors:
    """A batch as the model reads it."""

    batch: RankingBatch
    pairs: Tensor
    """(F, B, n) pair features"""
    counts: NDArray[np.int64]
    """(B,) candidates of each request, -1 where they break a rule"""

    def tensors(self) -> tuple[RankingBatch, Tensor]:
        """Return batch and pair features."""
        return self.batch, self.pairs


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
        self._tables, self._live = tables, live
        self._people = People(tables, live, users, end_micros)
        self._popularity = torch.from_numpy(popularity).to(tables.device)
        self._scratch = Scratch(tables.device)

    def lay(self, entries: Sequence[RankEntry]) -> LaidTensors:
        """Return a batch of entries of at least a candidate.

        A request with fewer than n candidates has places at its end that mean nothing.
        """
        width = max(len(entry.candidates) for entry in entries)
        numbers = np.full((len(entries), width), len(self._tables), np.int64)  # rows of the tables
        scores = np.zeros((len(entries), width), np.float32)
        known = np.zeros((len(entries), width), np.bool_)
        sizes = np.full(len(entries), -1, np.int64)
        for row, entry in enumerate(entries):
            own, count = entry.candidates, len(entry.candidates)
            if not keeps_rules(own):
                continue
            sizes[row] = count
            numbers[row, :count] = self._live.candidates(own.numbers)
            scores[row, :count] = own.scores
            np.not_equal(own.sources, Source.POPULAR, out=known[row, :count])
        asked = self._people.read(entries)
        counted = self._tables.trained(torch.from_numpy(numbers).to(self._tables.device))
        counts = torch.stack([torch.take(row, counted) for row in self._popularity])
        batch = make_batch(
            self._tables, asked.users, asked.dense, asked.history, asked.now, numbers, scores,
            known, counts,
        )  # fmt: skip
        pairs = pair_features(self._tables, batch, self._scratch)
        return LaidTensors(batch=batch, pairs=pairs, counts=sizes)


def stable_best(scores: Tensor, counts: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return places and scores of the best k, best first, equal ones in the order given.

    Shapes: scores (B, n), of which each request has its own count (B,); results (B, min(k, n)).
    The place of a score that is not finite is -1; those come last.
    """
    there = torch.arange(scores.shape[1], device=scores.device) < counts[:, None]
    held = torch.where(there & torch.isfinite(scores), scores, -torch.inf)
    best, order = held.sort(dim=1, descending=True, stable=True)
    best, order = best[:, :k], order[:, :k]
    return torch.where(torch.isfinite(best), order, -1), best
