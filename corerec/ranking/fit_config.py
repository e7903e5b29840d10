"""RankerFitConfig: how the ranker is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

from corerec.errors import InvalidArgument


@dataclass(frozen=True, kw_only=True)
class RankerFitConfig:
    """How the ranker is trained."""

    epochs: int = 2
    """Most passes over the cases, >= 1."""
    batch_cases: int = 256
    """Cases in a step, >= 1."""
    learning_rate: float = 2e-3
    """Highest step of Adam; warms up over 5% of the steps, then falls along a cosine to 0."""
    weight_decay: float = 1e-2
    """Pull of the weights towards zero in each step (decoupled), >= 0."""
    id_decay: float = 10.0
    """The same for embeddings of users and items, whose many weights see few cases each; without
    it they learn the training cases by heart."""
    listwise: float = 0.8
    """Weight of the softmax over a case's candidates; the rest is on the logistic loss, [0, 1]."""
    task_weights: tuple[float, ...] = ()
    """Weight of each task's loss, >= 0; () is 1 each."""
    patience: int = 1
    """Epochs without a better validation NDCG@10 before training stops, >= 1."""

    def __post_init__(self) -> None:
        """Check ranges. Raises InvalidArgument."""
        for name in ("epochs", "batch_cases", "patience"):
            if getattr(self, name) < 1:
                raise InvalidArgument(f"{name} must be >= 1, got {getattr(self, name)}")
        if not 0 <= self.listwise <= 1:
            raise InvalidArgument(f"listwise must be in [0, 1], got {self.listwise}")
        if not all(0 <= weight < math.inf for weight in self.task_weights):
            raise InvalidArgument(f"task_weights must be >= 0, got {self.task_weights}")
