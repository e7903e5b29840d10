"""Two-tower model: a user's recent events and an item's content, as unit vectors of one space.

The user tower looks at the newest events through one attention layer whose keys and values depend
on the item alone, so serving reads them from tables. Training is in `two_tower_fit.py`.
"""

# B users or windows, L events, T positions of a window, H heads, D width, R item rows, N items

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from corerec.errors import ConfigError
from corerec.features import FeatureSchema, ItemFeatures

CONTEXT_WIDTH = 4


@dataclass(frozen=True, kw_only=True)
class TwoTowerConfig:
    """Shape of the model."""

    dim: int = 64
    """Width of user and item vectors."""
    heads: int = 4
    """Attention heads; divides dim."""
    history_length: int = 50
    """Newest events of a user that are looked at."""
    hidden: int = 128
    """Width of the feed-forward layer of the user tower."""
    temperature: float = 0.05
    """Divides the dot product of unit vectors, > 0."""
    dropout: float = 0.1
    """Share of the history's values left out while training, [0, 1)."""
    id_dropout: float = 0.1
    """Share of item ids, and of user ids, left out while training, so that content must carry."""

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        for name in ("dim", "heads", "history_length", "hidden"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.dim % self.heads:
            raise ConfigError(f"dim must be a multiple of heads, got {self.dim} and {self.heads}")
        if self.temperature <= 0:
            raise ConfigError(f"temperature must be above 0, got {self.temperature}")
        for name in ("dropout", "id_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be in [0, 1), got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class TwoTowerShape:
    """Sizes that the data gives."""

    items: int
    users: int
    item_categorical: tuple[int, ...]
    item_multi: tuple[int, ...]
    title_buckets: int
    item_dense: int
    user_categorical: tuple[int, ...]
    user_dense: int
    has_times: bool

    @classmethod
    def of(cls, schema: FeatureSchema) -> TwoTowerShape:
        """Return the sizes that a schema declares."""
        return cls(
            items=schema.item_count,
            users=schema.user_count,
            item_categorical=tuple(f.cardinality for f in schema.item_categorical),
            item_multi=tuple(f.cardinality for f in schema.item_multi),
            title_buckets=schema.title_buckets + 1,
            item_dense=len(schema.item_numeric) + schema.vector_width,
            user_categorical=tuple(f.cardinality for f in schema.user_categorical),
            user_dense=len(schema.user_numeric),
            has_times=schema.has_times,
        )


@dataclass(frozen=True)
class ItemContent:
    """What the item tower reads besides ids, as tensors by item number."""

    categorical: Tensor  # (N, C)
    multi: Tensor  # (N, M, K)
    title: Tensor  # (N, W)
    dense: Tensor  # (N, F + V)

    @classmethod
    def of(cls, features: ItemFeatures, device: torch.device | str = "cpu") -> ItemContent:
        """Return the tensors of a table of item features."""
        dense = np.concatenate([features.numeric, features.vectors], axis=1)
        return cls(
            *(
                torch.from_numpy(np.array(array)).to(device)
                for array in (features.categorical, features.multi, features.title_tokens, dense)
            )
        )


@dataclass(frozen=True)
class UserInputs:
    """What the user tower reads besides the history."""

    row: Tensor  # (B,) 0 is an unknown user
    categorical: Tensor  # (B, Cu)
    numeric: Tensor  # (B, Fu)


class ItemTower(nn.Module):
    """Item id and content to a vector; row N is the start of every history."""

    def __init__(self, config: TwoTowerConfig, shape: TwoTowerShape, generator: Generator) -> None:
        super().__init__()
        self.start = shape.items
        self.id_dropout = config.id_dropout
        self.id = _embedding(shape.items + 1, config.dim, 0.05, generator)
        self.categorical = _embeddings(shape.item_categorical, config.dim, generator)
        self.multi = _embeddings(shape.item_multi, config.dim, generator)
        self.title = _embedding(shape.title_buckets, config.dim, 0.01, generator, padding=True)
        self.dense = _linear(shape.item_dense, config.dim, generator) if shape.item_dense else None

    def forward(self, rows: Tensor, content: ItemContent, noise: Generator | None) -> Tensor:
        """Return (R, D), not normalised, for rows (R,) in [0, N]; `noise` drops ids in training."""
        ids = self.id(rows)  # (R, D)
        if noise is not None and self.id_dropout > 0:
            # What stays is not scaled up: a dropped id is a cold item, the rest is as it serves.
            keep = torch.rand(len(rows), 1, generator=noise, device=rows.device) >= self.id_dropout
            ids = ids * (keep | (rows == self.start)[:, None])
        real = rows.clamp(max=self.start - 1)
        out: Tensor = ids + self._content(real, content) * (rows != self.start)[:, None]
        return out

    def _content(self, rows: Tensor, content: ItemContent) -> Tensor:
        words = content.title[rows]  # (R, W), padded with 0, whose embedding is zero
        out: Tensor = self.title(words).sum(1) / (words > 0).sum(1, keepdim=True).clamp(min=1)
        for column, embedding in enumerate(self.categorical):
            out = out + embedding(content.categorical[rows, column])
        for column, embedding in enumerate(self.multi):
            codes = content.multi[rows, column]  # (R, K)
            present = (codes > 0).sum(1, keepdim=True).clamp(min=1)
            out = out + embedding(codes).sum(1) / present
        if self.dense is not None:
            out = out + self.dense(content.dense[rows])
        return out  # (R, D)


class UserTower(nn.Module):
    """Newest events, id, attributes and the moment to a unit vector."""

    def __init__(self, config: TwoTowerConfig, shape: TwoTowerShape, generator: Generator) -> None:
        super().__init__()
        dim, self.heads = config.dim, config.heads
        self.dropout, self.id_dropout = config.dropout, config.id_dropout
        self.events = nn.LayerNorm(dim)
        self.query = _linear(dim, dim, generator)
        self.key = _linear(dim, dim, generator)
        self.value = _linear(dim, dim, generator)
        self.output = _linear(dim, dim, generator)
        # One learned weight per head and distance from the newest event; it starts by favouring
        # the newest, which carry most of the signal.
        slope = -0.05 * torch.arange(config.history_length, dtype=torch.float32)
        self.recency = nn.Parameter(slope.repeat(config.heads, 1))  # (H, L)
        self.middle = nn.LayerNorm(dim)
        self.wide = _linear(dim, config.hidden, generator)
        self.narrow = _linear(config.hidden, dim, generator)
        self.id = _embedding(shape.users + 1, dim, 0.01, generator, padding=True)
        self.categorical = _embeddings(shape.user_categorical, dim, generator)
        self.dense = _linear(shape.user_dense, dim, generator) if shape.user_dense else None
        self.context = _linear(CONTEXT_WIDTH, dim, generator) if shape.has_times else None

    def windows(self, base: Tensor, noise: Generator | None) -> Tensor:
        """Return (B, T, D): what each position of a window sees of itself and those before it.

        Shapes: base (B, T, D) item vectors, oldest first, padded at the end.
        """
        count, length, dim = base.shape
        x = _drop(self.events(base), self.dropout, noise)
        q, k, v = (
            layer(x).view(count, length, self.heads, -1).transpose(1, 2)  # (B, H, T, D/H)
            for layer in (self.query, self.key, self.value)
        )
        place = torch.arange(length, device=base.device)
        distance = place[:, None] - place[None, :]  # (T, T), of a position to one before it
        bias = self.recency[:, distance.clamp(min=0)].masked_fill(distance < 0, float("-inf"))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
        attended = attended.transpose(1, 2).reshape(count, length, dim)  # (B, T, D)
        return self._feed_forward(base, attended, noise)

    def newest(self, last: Tensor, keys: Tensor, values: Tensor, present: Tensor) -> Tensor:
        """Return (B, D): the last position of `windows`, from keys and values read in tables.

        Shapes: last (B, D); keys, values (B, L, D), newest first; present (B, L) bool.
        """
        count, length, dim = keys.shape
        q = self.query(self.events(last)).view(count, self.heads, 1, -1)
        k = keys.view(count, length, self.heads, -1).transpose(1, 2)  # (B, H, L, D/H)
        v = values.view(count, length, self.heads, -1).transpose(1, 2)
        bias = self.recency[:, :length][None, :, None].masked_fill(
            ~present[:, None, None], float("-inf")
        )  # (B, H, 1, L)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).reshape(count, dim)
        return self._feed_forward(last, attended, None)

    def tables(self, base: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of items, each (R, D): they depend on the item alone."""
        x = self.events(base)
        return self.key(x), self.value(x)

    def join(
        self, seen: Tensor, users: UserInputs, context: Tensor | None, noise: Generator | None
    ) -> Tensor:
        """Return unit vectors (B, D) of what was seen (B, D) with user and moment (B, 4) added."""
        rows = users.row
        if noise is not None and self.id_dropout > 0:
            keep = torch.rand(len(rows), generator=noise, device=rows.device) >= self.id_dropout
            rows = rows * keep
        out = seen + self.id(rows)
        for column, embedding in enumerate(self.categorical):
            out = out + embedding(users.categorical[:, column])
        if self.dense is not None:
            out = out + self.dense(users.numeric)
        if self.context is not None and context is not None:
            out = out + self.context(context)
        return F.normalize(out, dim=-1)

    def _feed_forward(self, base: Tensor, attended: Tensor, noise: Generator | None) -> Tensor:
        x = base + _drop(self.output(attended), self.dropout, noise)
        y = self.narrow(F.gelu(self.wide(self.middle(x))))
        out: Tensor = x + _drop(y, self.dropout, noise)
        return out


class TwoTowerNet(nn.Module):
    """Both towers; the item embedding serves the history and the candidates alike."""

    def __init__(self, config: TwoTowerConfig, shape: TwoTowerShape, generator: Generator) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        self.item = ItemTower(config, shape, generator)
        self.user = UserTower(config, shape, generator)

    @torch.inference_mode()
    def item_base(self, content: ItemContent, chunk: int = 65_536) -> Tensor:
        """Return (N + 1, D) item vectors before normalisation; the last row is the start."""
        device = self.item.id.weight.device
        rows = torch.arange(self.shape.items + 1, device=device)
        starts = range(0, len(rows), chunk)
        return torch.cat([self.item(rows[i : i + chunk], content, None) for i in starts])


def item_vectors(base: Tensor) -> Tensor:
    """Return the unit vectors (N, D) of items from `TwoTowerNet.item_base`, without the start row."""
    return F.normalize(base[:-1], dim=-1)


def _drop(x: Tensor, share: float, noise: Generator | None) -> Tensor:
    """Dropout with its own generator, so that a resumed run draws what an unbroken one does."""
    if noise is None or share == 0:
        return x
    keep = torch.rand(x.shape, generator=noise, device=x.device) >= share
    return x * keep / (1 - share)


def _embedding(
    rows: int, dim: int, scale: float, generator: Generator, padding: bool = False
) -> nn.Embedding:
    weight = torch.randn(rows, dim, generator=generator) * scale
    if padding:
        weight[0] = 0
    # sparse: a step must cost what it uses, not what the catalogue holds
    return nn.Embedding(rows, dim, padding_idx=0 if padding else None, sparse=True, _weight=weight)


def _embeddings(sizes: tuple[int, ...], dim: int, generator: Generator) -> nn.ModuleList:
    return nn.ModuleList(_embedding(n, dim, 0.01, generator, padding=True) for n in sizes)


def _linear(inputs: int, outputs: int, generator: Generator) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    bound = 1 / math.sqrt(inputs)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.zero_()
    return layer
