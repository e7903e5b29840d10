"""DLRM: dot products of all pairs of embeddings, between a bottom and a top network.

`DlrmNet` takes vectors of one width and numbers: `corerec.ranking.model` makes them of users and
items, `DLRM` of tables. Source: Naumov et al., "Deep Learning Recommendation Model for
Personalization and Recommendation Systems", 2019, section 2.1.
"""

# P rows, V vectors (F fields, and one of the numbers), E their width, M numbers, T tasks

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from corerec.engines.ctr import CtrModel
from corerec.engines.ctr_net import Mlp
from corerec.errors import InvalidArgument


@dataclass(frozen=True, kw_only=True)
class DlrmConfig:
    """Sizes of a DLRM. The defaults are for the ranker; `tabular` has those of tables."""

    bottom: tuple[int, ...] = (64,)
    """Widths of the hidden layers that make one vector of the numbers, may be none."""
    top: tuple[int, ...] = (64, 32)
    """Widths of the hidden layers over the dot products, at least one."""
    dropout: float = 0.1
    """Share of hidden units of the top that are dropped while training, [0, 1)."""
    batch_norm: bool = False
    """Normalises each hidden layer of the top over the batch."""
    pass_vectors: bool = False
    """Whether the top sees the embeddings beside their products, which the paper's does not."""

    def __post_init__(self) -> None:
        """Check ranges. Raises InvalidArgument."""
        if any(width < 1 for width in self.bottom):
            raise InvalidArgument(f"bottom must be widths >= 1, got {self.bottom}")
        if not self.top or min(self.top) < 1:
            raise InvalidArgument(f"top must be widths >= 1, at least one, got {self.top}")
        if not 0 <= self.dropout < 1:
            raise InvalidArgument(f"dropout must be in [0, 1), got {self.dropout}")

    @classmethod
    def tabular(cls) -> DlrmConfig:
        """Return the sizes of the BARS benchmark: three wide layers on top."""
        return cls(bottom=(64, 64), top=(400, 400, 400), dropout=0.2, batch_norm=True)


def dot_interaction(vectors: Tensor) -> Tensor:
    """Return the dot products of all pairs of distinct vectors, (i, j) with j < i, row by row.

    Shapes: vectors (P, V, E), result (P, V (V - 1) / 2). Source: Naumov et al. 2019, section 2.1.3.
    """
    count = vectors.shape[1]
    products = torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1)  # (P, V V)
    row, column = torch.tril_indices(count, count, -1, device=vectors.device)
    return products.index_select(1, row * count + column)


class DlrmNet(nn.Module):
    """Bottom network, dot products, top network, one head a task."""

    def __init__(
        self, vectors: int, width: int, numbers: int, config: DlrmConfig, tasks: int = 1
    ) -> None:
        super().__init__()
        self.config = config
        # Without numbers there is nothing for the bottom to read.
        self.bottom = Mlp((numbers, *config.bottom, width)) if numbers else None
        count = vectors + (1 if numbers else 0)
        # The paper's top sees the bottom's vector beside the products.
        passed = count if config.pass_vectors else (1 if numbers else 0)
        wide = passed * width + count * (count - 1) // 2
        self.top = Mlp((wide, *config.top), dropout=config.dropout, batch_norm=config.batch_norm)
        self.head = nn.Linear(config.top[-1], tasks)

    def forward(self, vectors: Tensor, numbers: Tensor) -> Tensor:
        """Return logits (P, T). Shapes: vectors (P, F, E), numbers (P, M)."""
        parts = []
        if self.bottom is not None:
            dense = self.bottom(numbers)  # (P, E)
            vectors = torch.cat([dense[:, None], vectors], 1)
            parts.append(dense)
        if self.config.pass_vectors:
            parts = [vectors.flatten(1)]
        logits: Tensor = self.head(self.top(torch.cat([*parts, dot_interaction(vectors)], 1)))
        return logits


class DLRM(CtrModel[DlrmConfig]):
    """DLRM for tables: `fit`, `predict`, `score`, `save`, `load`; one head a task.

    Source: Naumov et al. 2019. What differs: batch normalisation and dropout in the top network,
    Adam in place of SGD, and a table without numbers has no bottom network.
    """

    kind: ClassVar[str] = "dlrm"
    config_class = DlrmConfig

    @classmethod
    def default_config(cls) -> DlrmConfig:
        """Return `DlrmConfig.tabular()`."""
        return DlrmConfig.tabular()

    def _core(self, fields: int, numbers: int) -> nn.Module:
        return DlrmNet(fields, self.embedding_dim, numbers, self.config, len(self.tasks))
