"""UserFeatures: the arrays of users in a batch; UserIndex: from a caller's user id to its row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class UserFeatures:
    """The arrays of B users."""

    row: NDArray[np.int64]
    """(B,) rows of a user embedding: 0 is an unknown user, i + 1 is user row i of the data set."""
    categorical: NDArray[np.int32]
    """(B, Cu) codes, 0 is missing or unknown."""
    numeric: NDArray[np.float32]
    """(B, Fu) standardised, 0 where missing."""

    def __len__(self) -> int:
        return len(self.row)

    def take(self, rows: NDArray[np.int64]) -> UserFeatures:
        """Return the users at `rows` of this table, in that order."""
        return UserFeatures(
            row=self.row[rows], categorical=self.categorical[rows], numeric=self.numeric[rows]
        )


class UserIndex:
    """From user id to embedding row; users who were not in training get row 0."""

    def __init__(self, user_ids: Sequence[str]) -> None:
        self._rows = {user_id: row for row, user_id in enumerate(user_ids, 1)}

    @classmethod
    def read(cls, path: Path) -> UserIndex:
        """Return the index of a release's `users.parquet`, whose row order is that of training."""
        return cls(pl.read_parquet(path, columns=["user_id"])["user_id"].to_list())

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, user_id: str) -> int:
        """Return a user's embedding row; 0 for an unknown id and for the empty id."""
        return self._rows.get(user_id, 0)

    def rows(self, user_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return (B,) embedding rows; 0 for every unknown id and for the empty id."""
        get = self._rows.get
        return np.fromiter((get(user_id, 0) for user_id in user_ids), np.int64, len(user_ids))
