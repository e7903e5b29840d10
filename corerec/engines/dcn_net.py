"""DCN-v2: explicit feature crosses and a deep network over one dense row.

`corerec.ranking.model` makes the rows of users and items, `DCN` of tables.
Source: Wang et al., "DCN V2", WWW 2021: cross layer eq. 1, low-rank eq. 2, structures section 3.
"""

# P rows, D input width, R rank of a cross layer, T tasks

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corerec.engines.ctr_net import run_layers
from corerec.errors import ConfigError, InvalidArgument


@dataclass(frozen=True, kw_only=True)
class DcnConfig:
    """Sizes of a DCN-v2. The defaults are for the ranker; `tabular` has those of tables."""

    cross_layers: int = 2
    """Cross layers: degree of the highest explicit feature product - 1, >= 1."""
    cross_rank: int | None = 16
    """Rank of each cross layer's matrix; 0 or None is a full matrix."""
    deep: tuple[int, ...] = (64, 32)
    """Widths of the hidden layers of the deep part, at least one."""
    dropout: float = 0.1
    """Share of hidden units that are dropped while training, [0, 1)."""
    structure: Literal["parallel", "stacked"] = "parallel"
    """Whether the deep part reads the input, beside the crosses, or what the crosses made of it."""
    batch_norm: bool = False
    """Normalises each hidden layer of the deep part over the batch."""

    def __post_init__(self) -> None:
        """Check ranges. Raises InvalidArgument."""
        if self.cross_layers < 1:
            raise InvalidArgument(f"cross_layers must be >= 1, got {self.cross_layers}")
        if self.cross_rank is not None and self.cross_rank < 0:
            raise InvalidArgument(f"cross_rank must be >= 0, got {self.cross_rank}")
        if not self.deep or min(self.deep) < 1:
            raise InvalidArgument(f"deep must be widths >= 1, at least one, got {self.deep}")
        if not 0 <= self.dropout < 1:
            raise InvalidArgument(f"dropout must be in [0, 1), got {self.dropout}")
        if self.structure not in ("parallel", "stacked"):
            raise ConfigError(f"structure must be parallel or stacked, got {self.structure!r}")

    @classmethod
    def tabular(cls) -> DcnConfig:
        """Return the sizes of the BARS benchmark: full crosses beside three wide layers."""
        return cls(
            cross_layers=3, cross_rank=None, deep=(400, 400, 400), dropout=0.2, batch_norm=True
        )


class CrossLayer(nn.Module):
    """x_next = x0 * (U V^T x + b) + x, with U and V of shape (D, R)."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.randn(width, rank) / width**0.5)
        self.u = nn.Parameter(torch.randn(width, rank) / rank**0.5 * 0.1)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        """Return the next layer's input. Shapes: x0, x, result (P, D)."""
        return torch.addcmul(x, x0, torch.addmm(self.bias, x @ self.v, self.u.T))


class FullCrossLayer(nn.Module):
    """x_next = x0 * (W x + b) + x, with W of shape (D, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width) / width**0.5)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        """Return the next layer's input. Shapes: x0, x, result (P, D)."""
        return torch.addcmul(x, x0, F.linear(x, self.weight, self.bias))


class Dcn(nn.Module):
    """Cross network and deep network beside or after each other, joined by one head a task."""

    def __init__(self, width: int, config: DcnConfig, tasks: int = 1) -> None:
        super().__init__()
        self.width, self.config = width, config
        rank = config.cross_rank
        self.cross = nn.ModuleList(
            CrossLayer(width, rank) if rank else FullCrossLayer(width)
            for _ in range(config.cross_layers)
        )
        sizes = (width, *config.deep)
        self.deep = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.norm = nn.ModuleList(nn.BatchNorm1d(b) for b in config.deep if config.batch_norm)
        self.cross_head: nn.Linear | None = None
        if config.structure == "parallel":
            self.cross_head = nn.Linear(width, tasks, bias=False)
            nn.init.normal_(self.cross_head.weight, std=0.1 / width**0.5)
        self.deep_head = nn.Linear(sizes[-1], tasks)

    def forward(self, x0: Tensor) -> Tensor:
        """Return logits. Shapes: x0 (P, D), result (P, T)."""
        x = x0
        for layer in self.cross:
            x = layer(x0, x)
        dropout = self.config.dropout if self.training else 0.0
        own = x0 if self.cross_head is not None else x
        logits: Tensor = self.deep_head(run_layers(own, self.deep, self.norm, dropout))
        return logits if self.cross_head is None else logits + self.cross_head(x)
