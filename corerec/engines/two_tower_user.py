"""The user tower: past events, id, attributes and the moment to a unit vector."""

# B windows or users, L events, T positions of a window, H heads, D width, R item rows, Q queries

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from corerec.engines.two_tower_config import TwoTowerConfig
from corerec.engines.two_tower_layers import drop, embedding, embeddings, linear, user_space
from corerec.engines.two_tower_shape import CONTEXT_WIDTH, TwoTowerShape, UserInputs


class UserTower(nn.Module):
    """What was seen, plus who the user is, plus the moment, as one unit vector."""

    def __init__(self, config: TwoTowerConfig, shape: TwoTowerShape, generator: Generator) -> None:
        super().__init__()
        dim = config.dim
        self.id_dropout, self.bias = config.id_dropout, config.bias
        attends = config.history == "attention"
        self.history = HistoryAttention(config, generator) if attends else HistoryBag(config)
        self.id = embedding(shape.users + 1, dim, 0.01, generator, padding=True)
        self.categorical = embeddings(shape.user_categorical, dim, generator)
        self.dense = linear(shape.user_dense, dim, generator) if shape.user_dense else None
        self.context = linear(CONTEXT_WIDTH, dim, generator) if shape.has_times else None

    def profile(self, users: UserInputs, noise: Generator | None) -> Tensor:
        """Return (B, D): what is known of users besides their history."""
        rows = users.row
        if noise is not None and self.id_dropout > 0:
            keep = torch.rand(len(rows), generator=noise, device=rows.device) >= self.id_dropout
            rows = rows * keep
        out: Tensor = self.id(rows)
        for column, table in enumerate(self.categorical):
            out = out + table(users.categorical[:, column])
        return out if self.dense is None else out + self.dense(users.numeric)

    def join(self, seen: Tensor, profile: Tensor, context: Tensor | None) -> Tensor:
        """Return vectors (Q, D) to score by: what was seen, who sees, and the moment (Q, 4)."""
        out = seen + profile
        if self.context is not None and context is not None:
            out = out + self.context(context)
        return user_space(out, self.bias)


class HistoryAttention(nn.Module):
    """One layer of attention over the newest events; keys and values depend on the item alone.

    Source: Kang and McAuley, ICDM 2018 (SASRec), sec. III-B, with one block. What differs: places
    enter as a learned bias by distance from the newest event instead of embeddings, so that keys
    and values can be read from tables; normalisation comes before each part.
    """

    def __init__(self, config: TwoTowerConfig, generator: Generator) -> None:
        super().__init__()
        dim, self.heads, self.dropout = config.dim, config.heads, config.dropout
        self.events = nn.LayerNorm(dim)
        self.query = linear(dim, dim, generator)
        self.key = linear(dim, dim, generator)
        self.value = linear(dim, dim, generator)
        self.output = linear(dim, dim, generator)
        # One learned weight per head and distance from the newest event; it starts by favouring
        # the newest, which carry most of the signal.
        slope = -0.05 * torch.arange(config.history_length, dtype=torch.float32)
        self.recency = nn.Parameter(slope.repeat(config.heads, 1))  # (H, L)
        self.middle = nn.LayerNorm(dim)
        self.wide = linear(dim, config.hidden, generator)
        self.narrow = linear(config.hidden, dim, generator)

    def windows(self, base: Tensor, noise: Generator | None) -> Tensor:
        """Return (B, T, D): what each position of a window sees of itself and those before it.

        Shapes: base (B, T, D) item vectors, oldest first, padded at the end.
        """
        count, length, dim = base.shape
        x = drop(self.events(base), self.dropout, noise)
        q, k, v = (
            layer(x).view(count, length, self.heads, -1).transpose(1, 2)  # (B, H, T, D/H)
            for layer in (self.query, self.key, self.value)
        )
        place = torch.arange(length, device=base.device)
        distance = place[:, None] - place[None, :]  # (T, T), of a position to one before it
        bias = self.recency[:, distance.clamp(min=0)].masked_fill(distance < 0, float("-inf"))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None].to(q.dtype))
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

    def _feed_forward(self, base: Tensor, attended: Tensor, noise: Generator | None) -> Tensor:
        x = base + drop(self.output(attended), self.dropout, noise)
        y = self.narrow(F.gelu(self.wide(self.middle(x))))
        out: Tensor = x + drop(y, self.dropout, noise)
        return out


class HistoryBag(nn.Module):
    """The mean of what each item of a history adds, whatever their order.

    A history without items, and every one of `history="none"`, is a bag of the start token alone.
    Source: Covington et al., RecSys 2016, sec. 3.2 (averaged embeddings of the history). What
    differs: the items' own embeddings are used, normalised and through one linear map.
    """

    def __init__(self, config: TwoTowerConfig) -> None:
        super().__init__()
        self.events = nn.LayerNorm(config.dim)
        self.value = nn.Linear(config.dim, config.dim, bias=False)
        with torch.no_grad():
            # At first a user points where the items do. A bag is longer than what else is known of
            # a user, which sees that user's bag alone and would learn it by heart; where there is
            # only the start token it must not be.
            nn.init.eye_(self.value.weight).mul_(
                config.dim**-0.5 if config.history == "none" else 1.0
            )

    def members(self, base: Tensor) -> Tensor:
        """Return (R, D): what each item adds to the mean."""
        out: Tensor = self.value(self.events(base))
        return out
