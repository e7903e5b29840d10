"""BERT4Rec's settings: the network's shape and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from corerec.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class BERT4RecConfig:
    """Shape of the model."""

    dim: int = 64
    """Width of the vectors inside, >= 1; those that leave are one wider, for the item's bias."""
    layers: int = 2
    """Transformer layers, >= 1."""
    heads: int = 2
    """Attention heads; divides dim."""
    hidden: int = 256
    """Width of the feed-forward layers, >= 1."""
    max_len: int = 100
    """Newest positions that are looked at, the mask included, >= 2."""
    dropout: float = 0.2
    """Share of values left out while training, in steps of 1/256, [0, 1)."""
    history: Literal["both", "past"] = "both"
    """What an event sees of a history that is asked for its last position: events on both sides,
    as in the paper, or only earlier ones, which makes last-position training denser."""
    times: Literal["auto", "off"] = "auto"
    """`auto` adds the hour of the day and the gap before each event where the data has times."""

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        for name, least in (("dim", 1), ("layers", 1), ("heads", 1), ("hidden", 1), ("max_len", 2)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.dim % self.heads:
            raise ConfigError(f"dim must be a multiple of heads, got {self.dim} and {self.heads}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.history not in ("both", "past"):
            raise ConfigError(f"history must be 'both' or 'past', got {self.history!r}")
        if self.times not in ("auto", "off"):
            raise ConfigError(f"times must be 'auto' or 'off', got {self.times!r}")


@dataclass(frozen=True, kw_only=True)
class BERT4RecFitConfig:
    """How BERT4Rec is trained."""

    epochs: int = 20
    """Most passes over the training events, >= 1."""
    batch_sequences: int = 64
    """Windows in a step, >= 1."""
    learning_rate: float = 2e-3
    """Highest step of Adam; it warms up over 3% of the steps, then falls along a cosine to 1%."""
    weight_decay: float = 0.0
    """Pull of the weights towards zero in each step (decoupled)."""
    mask_share: float = 0.3
    """Share of a cloze window's events that are masked, (0, 1]."""
    last_share: float = 0.9
    """Share of the passes that ask for events as the last position, [0, 1]; the rest is cloze."""
    last_events: int = 50
    """Most events of a window that are asked for as the last position, >= 1."""
    negatives: int = 1024
    """Items that stand for the catalogue where it is not trained against as a whole, >= 1."""
    full_softmax_below: int = 50_000
    """Catalogues with fewer items are trained against all of it."""
    patience: int = 3
    """Epochs without a better validation score before training stops, >= 1."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the matrix products; auto is bf16 on CUDA. On a CPU bf16 needs AVX512-BF16 to be fast."""

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        for name in ("epochs", "batch_sequences", "last_events", "negatives", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.learning_rate <= 0 or self.weight_decay < 0:
            raise ConfigError(
                "learning_rate must be above 0 and weight_decay at least 0, got "
                f"{self.learning_rate} and {self.weight_decay}"
            )
        if not 0 < self.mask_share <= 1 or not 0 <= self.last_share <= 1:
            raise ConfigError(
                "mask_share must be in (0, 1] and last_share in [0, 1], got "
                f"{self.mask_share} and {self.last_share}"
            )
        if self.precision not in ("auto", "fp32", "bf16"):
            raise ConfigError(f"precision must be auto, fp32 or bf16, got {self.precision!r}")
