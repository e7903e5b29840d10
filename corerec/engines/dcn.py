"""DCN-v2: explicit feature crosses beside a deep network, for one task (interaction or not).

It takes one dense row per (user, item) pair; embedding the features is `corerec.ranking.model`.
Source: Wang et al., "DCN V2", WWW 2021: low-rank cross layer eq. 2, parallel structure section 3.
"""

# P pairs, D input width, R rank of a cross layer

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corerec.errors import InvalidArgument


@dataclass(frozen=True, kw_only=True)
class DcnConfig:
    """Sizes of a DCN-v2."""

    cross_layers: int = 2
    """Cross layers: degree of the highest explicit feature product - 1, >= 1."""
    cross_rank: int = 16
    """Rank of each cross layer's matrix, >= 1."""
    deep: tuple[int, ...] = (64, 32)
    """Widths of the hidden layers of the deep part, at least one."""
    dropout: float = 0.1
    """Share of hidden units that are dropped while training, [0, 1)."""

    def __post_init__(self) -> None:
        """Check ranges. Raises InvalidArgument."""
        for name in ("cross_layers", "cross_rank"):
            if getattr(self, name) < 1:
                raise InvalidArgument(f"{name} must be >= 1, got {getattr(self, name)}")
        if not self.deep or min(self.deep) < 1:
            raise InvalidArgument(f"deep must be widths >= 1, at least one, got {self.deep}")
        if not 0 <= self.dropout < 1:
            raise InvalidArgument(f"dropout must be in [0, 1), got {self.dropout}")


class CrossLayer(nn.Module):
    """x_next = x0 * (U V^T x + b) + x, with U and V of shape (D, R)."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.randn(width, rank) / width**0.5)
        self.u = nn.Parameter(torch.randn(width, rank) / rank**0.5 * 0.1)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        """Return the next layer's input. Shapes: x0, x, result (P, D)."""
        return x0 * torch.addmm(self.bias, x @ self.v, self.u.T) + x


class Dcn(nn.Module):
    """Cross network and deep network side by side on the same input, joined by one linear head."""

    def __init__(self, width: int, config: DcnConfig) -> None:
        super().__init__()
        self.width, self.config = width, config
        self.cross = nn.ModuleList(
            CrossLayer(width, config.cross_rank) for _ in range(config.cross_layers)
        )
        sizes = (width, *config.deep)
        self.deep = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.dropout = nn.Dropout(config.dropout)
        self.cross_head = nn.Linear(width, 1, bias=False)
        self.deep_head = nn.Linear(sizes[-1], 1)
        nn.init.normal_(self.cross_head.weight, std=0.1 / width**0.5)

    def forward(self, x0: Tensor) -> Tensor:
        """Return logits. Shapes: x0 (P, D), result (P,)."""
        x = x0
        for layer in self.cross:
            x = layer(x0, x)
        hidden = x0
        for linear in self.deep:
            hidden = self.dropout(F.relu(linear(hidden)))
        logits: Tensor = self.cross_head(x) + self.deep_head(hidden)  # (P, 1)
        return logits.view(-1)


def logistic_loss(logits: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of cases whose first candidate is the positive.

    Shapes: logits (B, 1 + n), a case a row. Each case's two kinds weigh as they occur, 1 : n.
    """
    labels = torch.zeros_like(logits)
    labels[:, 0] = 1
    return F.binary_cross_entropy_with_logits(logits, labels)


def listwise_loss(logits: Tensor) -> Tensor:
    """Return the mean softmax cross-entropy of the first candidate among all of its case.

    Shapes: logits (B, 1 + n). Source: Cao et al., "Learning to Rank", ICML 2007 (ListNet, top-one
    probability with one relevant item).
    """
    target = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    return F.cross_entropy(logits, target)
