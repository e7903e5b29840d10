"""DCN: the DCN-v2 of `dcn_net.py` as an estimator for tables, and the losses of its rankings."""

# P rows, D input width, F fields, E width of an embedding, M numbers, T tasks

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corerec.engines.ctr import CtrModel
from corerec.engines.dcn_net import CrossLayer, Dcn, DcnConfig, FullCrossLayer

__all__ = [
    "DCN",
    "CrossLayer",
    "Dcn",
    "DcnConfig",
    "FullCrossLayer",
    "listwise_loss",
    "logistic_loss",
]


class _Rows(nn.Module):
    """Lays the embeddings and numbers of a table's row side by side, for a Dcn."""

    def __init__(self, dcn: Dcn) -> None:
        super().__init__()
        self.dcn = dcn

    def forward(self, vectors: Tensor, numbers: Tensor) -> Tensor:
        """Return (P, T). Shapes: vectors (P, F, E), numbers (P, M)."""
        flat = vectors.flatten(1)
        logits: Tensor = self.dcn(torch.cat([flat, numbers], 1) if numbers.shape[1] else flat)
        return logits


class DCN(CtrModel[DcnConfig]):
    """DCN-v2 for tables: `fit`, `predict`, `score`, `save`, `load`; one head a task.

    Source: Wang et al., "DCN V2", WWW 2021. What differs: all fields have one width of embedding,
    and tasks share everything below their heads; no mixture of experts.
    """

    kind: ClassVar[str] = "dcn"
    config_class = DcnConfig

    @classmethod
    def default_config(cls) -> DcnConfig:
        """Return `DcnConfig.tabular()`."""
        return DcnConfig.tabular()

    def _core(self, fields: int, numbers: int) -> nn.Module:
        width = fields * self.embedding_dim + numbers
        return _Rows(Dcn(width, self.config, len(self.tasks)))


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
