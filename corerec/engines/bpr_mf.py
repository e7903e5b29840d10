"""Matrix factorization trained on pairs of items: one a user has, one it has not.

Source: Rendle, Freudenthaler, Gantner and Schmidt-Thieme, UAI 2009, "BPR", algorithm 1 and sec.
4.3.1, with an item bias. What differs: negatives may be drawn by popularity; the step falls along
a line to a tenth; a user is served by the same descent from the mean user over his history, with
the items fixed, so that users who were not there at training are served alike.
"""

# U users, N items, P pairs, K width, T triples of a chunk, B users of a batch

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from corerec.engines.pairs import Pairs, Rows
from corerec.errors import ConfigError
from corerec.stages import Float32s, Int64s

_CHUNK = 1_000_000
"""Triples that are drawn at once: 20 MB."""
_POOL = 8192
"""Negatives that a served user's descent cycles through."""


@dataclass(frozen=True, kw_only=True)
class BprFitConfig:
    """How BPR is trained."""

    epochs: int = 40
    """Most passes, each of as many triples as there are pairs, >= 1."""
    patience: int = 5
    """Epochs without a better validation before training stops, >= 1."""
    learning_rate: float = 0.05
    """First step of the descent, > 0."""
    popularity: float = 0.0
    """Negatives are drawn by the items' counts to this power: 0 is uniform, 1 by popularity."""
    start_scale: float = 0.1
    """Standard deviation of the numbers to start from, > 0."""

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        for name in ("epochs", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "start_scale"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.popularity <= 1:
            raise ConfigError(f"popularity must be in [0, 1], got {self.popularity}")


class BprTrainer:
    """The factors of both sides while they are trained; an item's last number is its bias."""

    def __init__(self, pairs: Pairs, width: int, decay: float, fit: BprFitConfig, seed: int):
        self.pairs, self.decay, self.fit, self.seed = pairs, np.float32(decay), fit, seed
        rng = np.random.default_rng([seed, 0])
        shapes = (len(pairs.users), width + 1), (len(pairs.items), width + 1)
        self.users, self.items = (
            rng.standard_normal(shape, dtype=np.float32) * np.float32(fit.start_scale)
            for shape in shapes
        )
        self.users[:, -1], self.items[:, -1] = 1, 0
        drawn = pairs.items.counts.astype(np.float64) ** fit.popularity
        self.shares = np.cumsum(drawn / drawn.sum())
        self.row_of = np.repeat(
            np.arange(len(pairs.users), dtype=np.int32), pairs.users.counts
        )  # (P,)

    def epoch(self, number: int, report: Callable[[float], None]) -> None:
        """Take as many steps as there are pairs, each on a pair drawn at random."""
        from corerec.engines.bpr_kernel import bpr_steps

        rng = np.random.default_rng([self.seed, 1 + number])
        rows, total = self.pairs.users, len(self.row_of)
        for start in range(0, total, _CHUNK):
            count = min(_CHUNK, total - start)
            chosen = rng.integers(total, size=count)
            progress = (number + start / total) / self.fit.epochs
            bpr_steps(
                self.row_of[chosen],
                rows.columns[chosen],
                self.draw(rng, count),
                *(rows.offsets, rows.columns, self.users, self.items),
                np.float32(self.fit.learning_rate * (1 - 0.9 * progress)),
                self.decay,
            )
            report((start + count) / total)

    def draw(self, rng: np.random.Generator, count: int) -> Int64s:
        """Return so many item numbers by the negatives' distribution."""
        if self.fit.popularity == 0:
            return rng.integers(len(self.items), size=count)
        found = np.searchsorted(self.shares, rng.random(count), side="right")
        return np.minimum(found, len(self.items) - 1)

    def pool(self) -> Int64s:
        """Return the negatives that serving cycles through."""
        return self.draw(np.random.default_rng([self.seed, 0, 1]), _POOL)

    def tensors(self) -> dict[str, Tensor]:
        """Return what an epoch begins with."""
        return {"users": torch.from_numpy(self.users), "items": torch.from_numpy(self.items)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` returned."""
        self.users[:], self.items[:] = tensors["users"].numpy(), tensors["items"].numpy()

    def result(self) -> tuple[Float32s, Float32s]:
        """Return copies of the item factors (N, K + 1) and of the mean user factor (K + 1,)."""
        known = self.pairs.users.counts > 0
        mean = self.users[known].mean(0, dtype=np.float64).astype(np.float32)
        return self.items.copy(), mean


def fold_in(
    rows: Rows, items: Float32s, start: Float32s, pool: Int64s, rate: float, decay: float
) -> Float32s:
    """Return users' factors (B, K + 1) by descent over their histories with the items fixed.

    Shapes: items (N, K + 1), start (K + 1,), pool (M,). The same history gives the same factors,
    in any batch.
    """
    from corerec.engines.bpr_kernel import bpr_users

    users = np.tile(start, (len(rows), 1))
    rates = np.float32(rate), np.float32(decay)
    bpr_users(rows.offsets, rows.columns, items, pool, users, *rates)
    return users
