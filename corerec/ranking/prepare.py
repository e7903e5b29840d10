"""Turns cases and requests into RankingBatches: training through PreparedExamples, serving in core.

Both go through `newest_history`, `user_dense` and `pair_features`, so they cannot differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corerec.engines.device import send
from corerec.errors import InvalidArgument
from corerec.features import PopularityTimeline, UserFeatures
from corerec.ranking.examples import RankingExamples
from corerec.ranking.features import RankingBatch, pair_features, user_dense
from corerec.ranking.tables import ItemTables, Scratch

CHUNK = 128
"""Cases whose features are computed at once: keeps the scratch space and the caches small."""


def make_batch(
    tables: ItemTables,
    users: UserFeatures,
    user_numbers: NDArray[np.float32],
    history: NDArray[np.int64],
    now: NDArray[np.int64],
    candidates: NDArray[np.int64],
    scores: NDArray[np.float32],
    retrieved: NDArray[np.bool_],
    popularity: Tensor,
) -> RankingBatch:
    """Return a batch on the device of the tables; -1 in the history becomes the blank item.

    Shapes: users B; user_numbers (B, Fd) from `user_dense`; history (B, L); now (B,); candidates,
    scores, retrieved (B, n); popularity (2, B, n).
    """
    on = tables.device
    numbers = send(history, on)
    return RankingBatch(
        user_row=send(users.row, on),
        user_categorical=send(users.categorical, on),
        user_dense=send(user_numbers, on),
        history=torch.where(numbers < 0, len(tables), numbers),
        now=send(now, on),
        candidates=send(candidates, on),
        scores=send(scores, on),
        retrieved=send(retrieved, on),
        popularity=popularity.to(on),
    )


@dataclass(frozen=True, kw_only=True)
class PreparedExamples:
    """Cases with their features computed once, ready to be drawn in any order."""

    tables: ItemTables
    examples: RankingExamples
    users: UserFeatures
    """The users of the cases, B rows"""
    user_numbers: NDArray[np.float32]
    """(B, Fd)"""
    pairs: Tensor
    """(B, F, 1 + n) from `pair_features`, on the CPU"""

    @classmethod
    def compute(
        cls,
        examples: RankingExamples,
        tables: ItemTables,
        users: UserFeatures,
        popularity: PopularityTimeline,
    ) -> PreparedExamples:
        """Compute the features of every case at its own moment.

        `users` is the table of all users, by `user_row`. Raises InvalidArgument for an item or
        user that does not exist, and when a feature is not finite.
        """
        _check(examples, tables, users)
        own = users.take(examples.user_row)
        numbers = user_dense(
            tables.schema, own, examples.history, examples.history_times, examples.now
        )
        scratch, parts = Scratch(tables.device), []
        for start in range(0, len(examples), CHUNK):
            rows = np.arange(start, min(start + CHUNK, len(examples)))
            batch = _batch(examples, tables, own, numbers, rows, popularity)
            with torch.no_grad():
                parts.append(pair_features(tables, batch, scratch).transpose(0, 1).cpu())
        pairs = torch.cat(parts)
        if not bool(torch.isfinite(pairs).all()):
            raise InvalidArgument("features of the training cases must be finite")
        return cls(tables=tables, examples=examples, users=own, user_numbers=numbers, pairs=pairs)

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, rows: NDArray[np.int64]) -> tuple[RankingBatch, Tensor]:
        """Return these cases and their pair features, on the device of the tables."""
        batch = _batch(self.examples, self.tables, self.users, self.user_numbers, rows, None)
        pairs = self.pairs.index_select(0, torch.from_numpy(rows)).to(self.tables.device)
        return batch, pairs.transpose(0, 1)  # (F, B, 1 + n)


def _batch(
    examples: RankingExamples,
    tables: ItemTables,
    users: UserFeatures,
    numbers: NDArray[np.float32],
    rows: NDArray[np.int64],
    popularity: PopularityTimeline | None,
) -> RankingBatch:
    candidates, now = examples.candidates[rows], examples.now[rows]
    counts = torch.zeros(2, *candidates.shape)
    if popularity is not None:
        own = np.zeros(candidates.shape, np.bool_)
        own[:, 0] = examples.positive_counted
        totals, recent = popularity.counts(candidates, now[:, None], own)
        counts = torch.from_numpy(np.stack([totals, recent]))
    return make_batch(
        tables,
        users.take(rows),
        numbers[rows],
        examples.history[rows],
        now,
        candidates,
        examples.retrieval_scores[rows],
        examples.retrieved[rows],
        counts,
    )


def _check(examples: RankingExamples, tables: ItemTables, users: UserFeatures) -> None:
    count = len(tables)
    for name, low, high, values in (
        ("candidates", 0, count, examples.candidates),
        ("history", -1, count, examples.history),
        ("user_row", 0, len(users), examples.user_row),
    ):
        if values.size and not low <= values.min() <= values.max() < high:
            raise InvalidArgument(
                f"{name} must be in [{low}, {high}), got {values.min()}..{values.max()}"
            )
    width, most = examples.history.shape[1], tables.schema.history_length
    if width > most:
        raise InvalidArgument(f"history must have at most {most} columns, got {width}")
    if tables.schema.has_times and (examples.history_times > examples.now[:, None]).any():
        raise InvalidArgument("history_times must not be later than the case's now")
