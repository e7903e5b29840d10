"""Exact search over a model's own vectors: `recommend` and `retrieve` without an index."""

# B users, N items, D width

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from corerec.errors import InvalidArgument
from corerec.stages import Candidates, Float32s, Int64s, Source, UserContext

_SCORES = 16_000_000
"""Scores that are held at once: 64 MB."""


class Recommendations(NamedTuple):
    """What `recommend` returns."""

    numbers: Int64s
    """(B, k) item numbers, best first, -1 where there are no more."""
    scores: Float32s
    """(B, k) scores, -inf where there are no more."""


class ExactSearch:
    """Gives a model with `encode_users` and `encode_items` its `recommend` and `retrieve`."""

    source: Source = Source.UNSPECIFIED
    _items: Float32s | None = None

    def encode_users(self, users: Sequence[UserContext]) -> Float32s:
        """Return (B, D)."""
        raise NotImplementedError

    def encode_items(self) -> Float32s:
        """Return (N, D)."""
        raise NotImplementedError

    def recommend(
        self, users: Sequence[UserContext], k: int = 10, *, exclude_seen: bool = True
    ) -> Recommendations:
        """Return the k items of highest score of each user, by exact search over all items.

        Raises:
            InvalidArgument: when k is below 1.
        """
        if k < 1:
            raise InvalidArgument(f"k must be at least 1, got {k}")
        items = torch.from_numpy(self._vectors())  # (N, D)
        most = min(k, len(items))
        numbers = np.full((len(users), k), -1, np.int64)
        scores = np.full((len(users), k), -np.inf, np.float32)
        step = max(1, _SCORES // max(1, len(items)))
        for start in range(0, len(users), step):
            part = users[start : start + step]
            found = torch.from_numpy(self.encode_users(part)) @ items.T  # (b, N)
            if exclude_seen:
                for row, user in enumerate(part):
                    known = user.items[(user.items >= 0) & (user.items < len(items))]
                    found[row, torch.from_numpy(known)] = -torch.inf
            best, order = found.topk(most, dim=1)
            rows = slice(start, start + len(part))
            scores[rows, :most] = best.numpy()
            numbers[rows, :most] = np.where(np.isfinite(scores[rows, :most]), order.numpy(), -1)
        return Recommendations(numbers, scores)

    def retrieve(self, users: Sequence[UserContext], k: int) -> list[Candidates]:
        """Return each user's best k as candidates, without what the user has seen."""
        found = self.recommend(users, k)
        kept = found.numbers >= 0
        return [
            Candidates(
                numbers=found.numbers[row, kept[row]],
                scores=found.scores[row, kept[row]],
                sources=np.full(int(kept[row].sum()), self.source, np.uint8),
            )
            for row in range(len(users))
        ]

    def _vectors(self) -> Float32s:
        """Return the item vectors, computed once; `fit` sets `_items` back to None."""
        if self._items is None:
            self._items = self.encode_items()
        return self._items
