"""What decides a two-tower and its training, besides the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from corerec.errors import ConfigError

History = Literal["attention", "mean", "none"]
Fusion = Literal["sum", "concat", "weighted", "attention", "gated", "bilinear"]
Loss = Literal["info_nce", "bpr", "bce"]
Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class TwoTowerConfig:
    """Shape of the model."""

    dim: int = 64
    """Width of user and item vectors."""
    history: History = "attention"
    """How the user tower reads past events: `attention` over the newest, in their order, trained
    to say what comes next; `mean`, a bag without order, trained to say what else is in it; `none`,
    the user's id and attributes alone."""
    heads: int = 4
    """Attention heads; divides dim."""
    history_length: int = 50
    """Newest events of a user that are looked at."""
    hidden: int = 128
    """Width of the feed-forward layer of the user tower (attention only)."""
    fusion: Fusion = "sum"
    """How an item's id and attributes, and each of its vector sets, become one vector: a plain sum,
    or a strategy of `corerec.multimodal.MultiModalFusion`; a vector of zeros is a missing one."""
    neighbours: int = 0
    """Nearest items in each vector set whose ids an item is fused with too, each set's mean being
    one more modality: what is learned of one item serves those like it. 0 is none; needs a
    `fusion` other than "sum". Found by exact search, for catalogues up to about 200,000 items."""
    temperature: float = 0.05
    """Divides the dot product of unit vectors, > 0."""
    dropout: float = 0.1
    """Share of the history's values left out while training (attention only), [0, 1)."""
    bag_dropout: float = 0.5
    """Share of a bag's items left out of the query while training (mean only), [0, 1)."""
    id_dropout: float = 0.1
    """Share of item ids, and of user ids, left out while training, so that content must carry."""
    content_dropout: float = 0.0
    """Share of an item's words, codes and numbers, those of its vectors too, left out while
    training. Words and vectors tell most items apart as an id does; where some are missing, what
    is learned of one item holds for those like it, so new items are placed better."""
    bias: bool = False
    """Score by cosine plus a bias of the item: the last of the `dim` columns is the item's bias,
    and 1 in users, so vectors are not of unit length."""

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        for name, least in (("dim", 1 + self.bias), ("heads", 1), ("hidden", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.history_length < 1:
            raise ConfigError(f"history_length must be at least 1, got {self.history_length}")
        if self.neighbours < 0:
            raise ConfigError(f"neighbours must be at least 0, got {self.neighbours}")
        if self.neighbours and self.fusion == "sum":
            raise ConfigError(
                f"neighbours need a fusion other than 'sum', got {self.neighbours} and 'sum'"
            )
        if self.dim % self.heads:
            raise ConfigError(f"dim must be a multiple of heads, got {self.dim} and {self.heads}")
        if self.temperature <= 0:
            raise ConfigError(f"temperature must be above 0, got {self.temperature}")
        for name in ("dropout", "bag_dropout", "id_dropout", "content_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        check_choice("history", self.history, get_args(History))
        check_choice("fusion", self.fusion, get_args(Fusion))


@dataclass(frozen=True, kw_only=True)
class TwoTowerFitConfig:
    """How the two-tower is trained."""

    epochs: int = 10
    """Most passes over the training events, >= 1."""
    max_examples: int = 1_000_000
    """Most (prefix, next item) pairs in all epochs together, >= 1: small data is passed `epochs`
    times, larger data less often, and of more than so many pairs one epoch draws some at random."""
    loss: Loss = "info_nce"
    """`info_nce`, softmax against shared negatives or the whole catalogue; `bpr`, pairwise against
    random items; `bce`, logistic against random items."""
    batch_windows: int = 64
    """Windows of `history_length` events in a step (history "attention")."""
    batch_users: int = 256
    """Users with all their events in a step (histories "mean" and "none")."""
    learning_rate: float = 3e-3
    """Highest step of Adam; it warms up over 2% of the steps, then falls along a cosine to 5%."""
    batch_negatives: int = 768
    """InfoNCE: negatives drawn from the batch's own targets, so popular items come more often."""
    uniform_negatives: int = 256
    """InfoNCE: negatives drawn from the whole catalogue, so no item is left out."""
    full_softmax_below: int = 1000
    """InfoNCE: catalogues with fewer items are trained against all of it instead of a sample."""
    negatives: int = 4
    """BPR and BCE: random negatives of each positive, >= 1."""
    hard_negatives: int = 0
    """Wrong items that score high, drawn for each query and step; they are found anew with the
    current model before each epoch but the first. 0 is none."""
    hard_pool: int = 100
    """A hard negative is one of the user's best so many wrong items, of 8192 random ones where the
    catalogue has more."""
    patience: int = 2
    """Epochs without a better validation score before training stops."""
    weight_decay: float = 0.0
    """Pull of the weights towards zero in each step (decoupled)."""
    precision: Precision = "auto"
    """Of the matrix products: bf16 with weights and losses in fp32, or fp32; auto is bf16 on CUDA.
    On a CPU bf16 pays only with AVX512-BF16 or AMX."""

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        positive = ("epochs", "max_examples", "batch_windows", "batch_users", "batch_negatives")
        for name in (*positive, "negatives", "hard_pool", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("uniform_negatives", "hard_negatives", "weight_decay"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ConfigError(f"learning_rate must be above 0, got {self.learning_rate}")
        check_choice("loss", self.loss, get_args(Loss))
        check_choice("precision", self.precision, get_args(Precision))


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise ConfigError when `value` is none of the known ones."""
    if value not in known:
        raise ConfigError(f"{name} must be one of {', '.join(known)}, got {value!r}")
