"""TransitionTable: which items follow which, counted. The cheapest strong signal of sequence.

For each item the most likely followers with their probabilities, in one CSR matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from corerec.errors import InvalidArgument

WINDOW = 5
"""An item follows another when it comes at most so many events later."""
DECAY = 0.7
"""A follower one event further away counts this much less."""
PRIOR = 5.0
"""Added to the count of the item that is followed: few observations are not certainty."""


@dataclass(frozen=True, kw_only=True)
class TransitionTable:
    """Row j holds the followers of item j and how likely each is, most likely first."""

    starts: NDArray[np.int64]
    """(N + 1,) where each item's followers begin."""
    followers: NDArray[np.int32]
    """(nnz,) item numbers."""
    weights: NDArray[np.float32]
    """(nnz,) decayed count of (item, follower) / (count of item + PRIOR), in (0, 1 / (1-DECAY))."""

    @classmethod
    def fit(
        cls,
        user_rows: NDArray[np.integer],
        item_numbers: NDArray[np.integer],
        item_count: int,
        *,
        neighbours: int = 64,
    ) -> TransitionTable:
        """Count the followers in interactions that are in time order within each user.

        To train a ranker, give interactions that end before its cases begin: a positive that the
        table has counted would tell the ranker its label. For serving, give everything.

        Shapes: user_rows, item_numbers (E,), in any order across users.

        Raises:
            InvalidArgument: when an item number is not in [0, item_count).
        """
        items = np.asarray(item_numbers, np.int64)
        if len(items) and (items.min() < 0 or items.max() >= item_count):
            raise InvalidArgument(f"item numbers must be in [0, {item_count})")
        order = np.argsort(user_rows, kind="stable")
        users, items = np.asarray(user_rows)[order], items[order]
        keys, counts = _pair_counts(users, items, item_count)
        source, follower = keys // item_count, keys % item_count
        best = np.lexsort((follower, -counts, source))
        source, follower, counts = source[best], follower[best], counts[best]
        sizes = np.bincount(source, minlength=item_count)
        place = np.arange(len(source)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        kept = place < neighbours
        source, follower, counts = source[kept], follower[kept], counts[kept]
        seen = np.bincount(items, minlength=item_count)
        sizes = np.bincount(source, minlength=item_count)
        return cls(
            starts=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            followers=follower.astype(np.int32),
            weights=(counts / (seen[source] + PRIOR)).astype(np.float32),
        )

    def __len__(self) -> int:
        return len(self.starts) - 1

    def save(self, path: Path) -> None:
        """Write the table as safetensors."""
        save_file(
            {"starts": self.starts, "followers": self.followers, "weights": self.weights}, path
        )

    @classmethod
    def load(cls, path: Path) -> TransitionTable:
        """Return the table in a file. Raises InvalidArgument when its arrays do not fit."""
        arrays = load_file(path)
        if missing := {"starts", "followers", "weights"} - set(arrays):
            raise InvalidArgument(f"{path.name}: arrays {sorted(missing)} are missing")
        table = cls(**arrays)
        if not table.starts[-1] == len(table.followers) == len(table.weights):
            raise InvalidArgument(f"{path.name}: starts, followers and weights do not fit")
        return table


def _pair_counts(
    users: NDArray[np.integer], items: NDArray[np.int64], item_count: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the distinct pairs as item * item_count + follower, ascending, and their weights."""
    keys = np.empty(0, np.int64)
    counts = np.empty(0, np.float64)
    for lag in range(1, min(WINDOW, len(items) - 1) + 1):
        together = (users[lag:] == users[:-lag]) & (items[lag:] != items[:-lag])
        pairs = (items[:-lag] * item_count + items[lag:])[together]
        added = np.concatenate([counts, np.full(len(pairs), DECAY ** (lag - 1))])
        keys, where = np.unique(np.concatenate([keys, pairs]), return_inverse=True)
        counts = np.bincount(where, added, minlength=len(keys)).astype(np.float64)
    return keys, counts
