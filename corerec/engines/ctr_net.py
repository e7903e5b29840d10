"""What the tabular models share: the embeddings of fields, numbers beside them, heads, layers."""

# B rows, F categorical fields, E width of an embedding, M numbers, T tasks

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

CLAMP = 8.0
"""Standardised numbers are cut here: a request may bring values that training never saw."""


class FieldEmbedding(nn.Module):
    """One table for all fields; row 0 of each field is what is missing or unknown."""

    offsets: Tensor
    limits: Tensor

    def __init__(
        self, cardinalities: Sequence[int], width: int, *, std: float, sparse: bool = False
    ) -> None:
        super().__init__()
        self.width, self.sparse = width, sparse
        limits = torch.tensor(cardinalities, dtype=torch.int64)
        offsets = limits.cumsum(0) - limits
        weight = torch.randn(int(limits.sum()), width) * std
        weight[offsets] = 0  # nothing is known of what is missing, until rows that miss it are seen
        self.weight = nn.Parameter(weight)
        self.register_buffer("limits", limits, persistent=False)
        self.register_buffer("offsets", offsets, persistent=False)

    def rows(self, codes: Tensor) -> Tensor:
        """Return (B, F) rows of the table; codes outside [0, cardinality) are unknown."""
        known = (codes > 0) & (codes < self.limits)
        return torch.where(known, codes, 0) + self.offsets

    def forward(self, codes: Tensor) -> Tensor:
        """Return (B, F, E). Shapes: codes (B, F), any integer type."""
        return F.embedding(self.rows(codes), self.weight, sparse=self.sparse)


class CtrNet(nn.Module):
    """Logits of T tasks: embeddings and standardised numbers, then a core that crosses them."""

    number_mean: Tensor
    number_std: Tensor
    calibration: Tensor

    def __init__(self, fields: FieldEmbedding, core: nn.Module, numbers: int, tasks: int) -> None:
        super().__init__()
        self.fields, self.core = fields, core
        self.register_buffer("number_mean", torch.zeros(numbers))
        self.register_buffer("number_std", torch.ones(numbers))
        self.register_buffer("calibration", torch.tensor([[1.0, 0.0]]).repeat(tasks, 1))

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        """Return (B, T) logits. Shapes: codes (B, F), numbers (B, M)."""
        scaled = ((numbers - self.number_mean) / self.number_std).clamp(-CLAMP, CLAMP)
        logits: Tensor = self.core(self.fields(codes), scaled)
        return logits

    def standardise(self, numbers: NDArray[np.float32]) -> None:
        """Take mean and spread of the columns of (P, M); a constant column keeps its scale."""
        if not numbers.shape[1]:
            return
        spread = numbers.std(axis=0, dtype=np.float64)
        self.number_mean.copy_(torch.from_numpy(numbers.mean(axis=0, dtype=np.float64)))
        self.number_std.copy_(torch.from_numpy(np.where(spread > 1e-6, spread, 1.0)))

    def probability(self, logits: Tensor) -> Tensor:
        """Return calibrated probabilities of (B, T) logits."""
        return torch.sigmoid(logits * self.calibration[:, 0] + self.calibration[:, 1])


class Mlp(nn.Module):
    """Linear layers with ReLU, optional batch normalisation before it and dropout after it."""

    def __init__(
        self, sizes: Sequence[int], *, dropout: float = 0.0, batch_norm: bool = False
    ) -> None:
        super().__init__()
        self.linear = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.norm = nn.ModuleList(nn.BatchNorm1d(b) for b in sizes[1:] if batch_norm)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Return the last hidden layer. Shapes: x (B, sizes[0]), result (B, sizes[-1])."""
        return run_layers(x, self.linear, self.norm, self.dropout if self.training else 0.0)


def run_layers(x: Tensor, linear: nn.ModuleList, norm: nn.ModuleList, dropout: float) -> Tensor:
    """Return x after the layers; `norm` is empty or has as many as `linear`."""
    for place, layer in enumerate(linear):
        x = layer(x)
        if len(norm):
            x = _normalise(x, cast(nn.BatchNorm1d, norm[place]))
        x = F.relu(x)
        if dropout:
            x = F.dropout(x, dropout)
    return x


def _normalise(x: Tensor, norm: nn.BatchNorm1d) -> Tensor:
    """Return x normalised; a batch of one row has no variance, so the running one is taken."""
    own = norm.training and len(x) > 1
    return F.batch_norm(
        x, norm.running_mean, norm.running_var, norm.weight, norm.bias, own, 0.1, norm.eps
    )
