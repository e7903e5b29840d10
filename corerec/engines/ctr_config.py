"""CtrFitConfig: how a tabular model is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from corerec.errors import ConfigError

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class CtrFitConfig:
    """How a tabular model is trained."""

    epochs: int = 12
    """Most passes over the rows, >= 1."""
    batch_rows: int = 2048
    """Rows in a step, >= 1."""
    learning_rate: float = 4e-3
    """Highest step of Adam, > 0; it falls along a cosine to 0 at the last epoch."""
    embedding_l2: float = 0.0
    """Half of it times the squared embeddings is added to the loss, >= 0; of a table with more
    than `sparse_above` rows, those of the step alone."""
    weight_decay: float = 0.0
    """Pull of the other weights towards zero in each step (decoupled), >= 0."""
    hide: float = 0.0
    """Share of codes that training takes for missing, [0, 1): what is unknown gets a meaning."""
    average: float = 0.0
    """Weights are kept as a running mean that holds this much of itself each step, [0, 1)."""
    patience: int = 3
    """Epochs without a better validation before training stops, >= 1."""
    metric: Literal["auc", "logloss"] = "auc"
    """What early stopping looks at, on validation, the weighted mean over tasks."""
    task_weights: tuple[float, ...] = ()
    """Weight of each task's loss, >= 0; () is 1 each."""
    sparse_above: int = 200_000
    """Of embedding tables with more rows a step moves only those it used; below, that costs more
    than it saves."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 is autocast: for CUDA and CPUs with AVX512-BF16."""

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        for name in ("epochs", "batch_rows", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, got {getattr(self, name)}")
        for name in ("embedding_l2", "weight_decay", "sparse_above"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be >= 0, got {getattr(self, name)}")
        for name in ("hide", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate must be > 0, got {self.learning_rate}")
        for name, known in (("metric", ("auc", "logloss")), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        if not all(0 <= weight < math.inf for weight in self.task_weights):
            raise ConfigError(f"task_weights must be >= 0, got {self.task_weights}")
