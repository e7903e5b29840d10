"""What the ranker learns from and stops by, as pure functions of logits."""

# T tasks, B cases, n negatives

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from corerec.engines.dcn import listwise_loss, logistic_loss


def ranker_loss(logits: Tensor, labels: Tensor | None, weights: Tensor, listwise: float) -> Tensor:
    """Return the weighted sum of the tasks' losses: listwise and logistic, by their shares.

    A case whose positive was none for a task has only negatives there: it counts in the logistic
    part alone.

    Shapes: logits (T, B, 1 + n), column 0 the positive; labels (T, B) in [0, 1], None where every
    positive was one for every task; weights (T,).
    """
    total = logits.new_zeros(())
    for task, own in enumerate(logits.unbind(0)):
        if labels is None:
            ordered, binary = listwise_loss(own), logistic_loss(own)
        else:
            ordered, binary = _labelled(own, labels[task])
        total = total + weights[task] * (listwise * ordered + (1 - listwise) * binary)
    return total


def _labelled(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the listwise and the logistic loss of one task. Shapes: (B, 1 + n), (B,)."""
    target = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    each = F.cross_entropy(logits, target, reduction="none")  # (B,)
    wanted = torch.zeros_like(logits)
    wanted[:, 0] = labels
    ordered = (each * labels).sum() / labels.sum().clamp(min=1)
    return ordered, F.binary_cross_entropy_with_logits(logits, wanted)


def ndcg_at_10(scores: NDArray[np.float32]) -> float:
    """Return the mean NDCG@10 of column 0 among each row of (B, 1 + n); ties count against it."""
    above = (scores[:, 1:] >= scores[:, :1]).sum(axis=1)
    return float(np.where(above < 10, 1 / np.log2(above + 2), 0).mean())


def pair_auc(scores: NDArray[np.float32]) -> float:
    """Return the share of (positive, negative) pairs of a case in the right order, ties one half.

    Shapes: scores (B, 1 + n), column 0 the positive.
    """
    right, wrong = scores[:, :1], scores[:, 1:]
    return float(((right > wrong) + 0.5 * (right == wrong)).mean())
