"""LaidArrays: a batch of requests as arrays, which compiled code reads, and as tensors."""

# B requests, n candidates, F features, Du user's inputs

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corerec.ranking.features import RankingBatch
from corerec.ranking.kept_users import KeptUsers

_NOT_COUNTED = torch.zeros(2, 0, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class LaidArrays:
    """Views of memory that the next batch writes to."""

    users: KeptUsers
    seats: NDArray[np.int64]
    """(B,)"""
    dense: slice
    """Where the numbers of `user_dense` are in `side`"""
    counts: NDArray[np.int64]
    """(B,) candidates of each request, -1 where they break a rule"""
    now: NDArray[np.int64]
    """(B,) microseconds"""
    rows: NDArray[np.int64]
    """(B, n) rows of the tables; the blank one pads"""
    scores: NDArray[np.float32]
    """(B, n) of retrieval"""
    known: NDArray[np.bool_]
    """(B, n) whether the score says something"""
    pairs: NDArray[np.float32]
    """(F, B, n) pair features"""
    side: NDArray[np.float32]
    """(B, Du) as of `RankingModel.user_side`"""
    compared: NDArray[np.float32]
    """(F + 3, B, n) as of `RankingModel.pair_side`"""

    def tensors(self) -> tuple[RankingBatch, Tensor]:
        """Return the batch and its pair features as the model reads them, over the same memory."""
        users, seats = self.users, self.seats
        batch = RankingBatch(
            user_row=torch.from_numpy(users.row[seats]),
            user_categorical=torch.from_numpy(users.categorical[seats]),
            user_dense=torch.from_numpy(self.side[:, self.dense]),
            history=torch.from_numpy(users.history[seats]),
            now=torch.from_numpy(self.now),
            candidates=torch.from_numpy(self.rows),
            scores=torch.from_numpy(self.scores),
            retrieved=torch.from_numpy(self.known),
            popularity=_NOT_COUNTED,
            user_side=torch.from_numpy(self.side),
            compared=torch.from_numpy(self.compared),
        )
        return batch, torch.from_numpy(self.pairs)
