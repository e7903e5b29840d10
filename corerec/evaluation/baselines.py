"""Baselines that tell whether a protocol is implemented right: popularity and EASE.

Both are closed forms with published figures on many data sets. They are vector models like any of
the library, but are not meant to be served: EASE's item vectors are as wide as the catalogue.
"""

# B users, N items

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch

from corerec.engines.exact import ExactSearch
from corerec.engines.sequences import Sequences
from corerec.errors import ConfigError, InvalidArgument
from corerec.evaluation.metrics import Float64s
from corerec.stages import Float32s, Int64s, Source, UserContext


class TopPop(ExactSearch):
    """Recommends what most users have: the same list for everyone.

    Source: Cremonesi et al., RecSys 2010, sec. 4.1.
    """

    source = Source.POPULAR

    def fit(self, data: Sequences) -> Self:
        """Count the users of each item; a user's repeated events count once."""
        _, items = _distinct(data)
        self._items = np.bincount(items, minlength=data.item_count).astype(np.float32)[:, None]
        return self

    def encode_users(self, users: Sequence[UserContext]) -> Float32s:
        """Return ones (B, 1)."""
        return np.ones((len(users), 1), np.float32)

    def encode_items(self) -> Float32s:
        """Return the counts (N, 1)."""
        if self._items is None:
            raise InvalidArgument("TopPop must be fitted before it encodes")
        return self._items


class EASE(ExactSearch):
    """Linear item-to-item model in closed form: an autoencoder that may not copy its input.

    Source: Steck, WWW 2019, "Embarrassingly Shallow Autoencoders", eq. 8 and algorithm 1. Computed
    in float64 with a Cholesky inverse; N items take 16 N^2 bytes.
    """

    def __init__(self, regularisation: float = 500.0) -> None:
        if not regularisation > 0:
            raise ConfigError(f"regularisation must be above 0, got {regularisation}")
        self.regularisation = regularisation

    def fit(self, data: Sequences) -> Self:
        """Solve for the weights of all pairs of items; a user's repeated events count once."""
        users, items = _distinct(data)
        gram = torch.from_numpy(_gram(users, items, data.user_count, data.item_count))
        gram.diagonal().add_(self.regularisation)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))  # (N, N)
        weights = inverse / -inverse.diagonal()[None, :]
        weights.fill_diagonal_(0)
        self._items = np.ascontiguousarray(weights.T.float().numpy())  # (N, N), row: target
        return self

    def encode_users(self, users: Sequence[UserContext]) -> Float32s:
        """Return (B, N), 1 where the history has the item."""
        count = len(self.encode_items())
        found = np.zeros((len(users), count), np.float32)
        for row, user in enumerate(users):
            found[row, user.items[(user.items >= 0) & (user.items < count)]] = 1
        return found

    def encode_items(self) -> Float32s:
        """Return (N, N): for each item the weight that each item of a history gives it."""
        if self._items is None:
            raise InvalidArgument("EASE must be fitted before it encodes")
        return self._items


def _distinct(data: Sequences) -> tuple[Int64s, Int64s]:
    if not len(data):
        raise InvalidArgument("fit needs at least one event, got 0")
    pairs = np.unique(data.users * data.item_count + data.items)
    return pairs // data.item_count, pairs % data.item_count


def _gram(users: Int64s, items: Int64s, user_count: int, item_count: int) -> Float64s:
    """Return how many users each pair of items shares, (N, N), a block of users at a time."""
    gram = np.zeros((item_count, item_count))
    block = 4096
    for start in range(0, user_count, block):
        first, last = np.searchsorted(users, [start, start + block])
        dense = np.zeros((min(block, user_count - start), item_count), np.float32)
        dense[users[first:last] - start, items[first:last]] = 1
        gram += dense.T @ dense
    return gram
