"""BERT4Rec's network: a history with a mask token to a query vector at the mask's place.

The network knows nothing of batches' making (`bert4rec_batch.py`) or training
(`bert4rec_fit.py`); which position sees which comes in as a mask.
"""

# B sequences, L positions, A asked positions, D width, H heads, N items

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from corerec.engines.bert4rec_config import BERT4RecConfig

HOURS = 25
"""0 is unknown, 1..24 the hour of the day in UTC."""
GAPS = 32
"""0 is unknown, then one for each doubling of 1 + seconds since the event before."""


@dataclass(frozen=True)
class Tokens:
    """A batch as the network reads it, all (B, L)."""

    items: Tensor
    """Item numbers; N is the mask, and the padding, which nothing looks at."""
    places: Tensor
    """0..max_len - 1; the newest event or the mask after it is at max_len - 1."""
    hours: Tensor | None = None
    """0..HOURS - 1."""
    gaps: Tensor | None = None
    """0..GAPS - 1."""


class BERT4RecNet(nn.Module):
    """Bidirectional transformer over items, with the item embedding tied to the output.

    Source: Sun et al., CIKM 2019, sec. 3.3 to 3.6. What differs: layers are normalised before, not
    after, the sublayers (Xiong et al., ICML 2020); the last layer computes only asked positions,
    which changes no result; attention weights are not dropped.
    """

    def __init__(
        self, config: BERT4RecConfig, item_count: int, has_times: bool, generator: Generator
    ) -> None:
        super().__init__()
        dim = config.dim
        self.config, self.item_count, self.has_times = config, item_count, has_times
        self.item = _table(item_count + 1, dim, generator)  # row N is the mask
        self.bias = nn.Parameter(torch.zeros(item_count, 1))
        self.place = _table(config.max_len, dim, generator)
        self.hour = _table(HOURS, dim, generator) if has_times else None
        self.gap = _table(GAPS, dim, generator) if has_times else None
        self.blocks = nn.ModuleList(_Block(config, generator) for _ in range(config.layers))
        self.last = nn.LayerNorm(dim)
        self.head = _linear(dim, dim, generator)
        self.out = nn.LayerNorm(dim)

    def forward(
        self, tokens: Tokens, allowed: Tensor, asked: Tensor, noise: Generator | None = None
    ) -> Tensor:
        """Return (B, A, D), the vectors of the asked positions; `noise` drops values in training.

        Shapes: allowed (B, 1, L or 1, L) bool, True where a position (row) sees another (column);
        asked (B, A) positions.
        """
        x = self.item(tokens.items) + self.place(tokens.places)  # (B, L, D)
        if self.hour is not None and tokens.hours is not None:
            x = x + self.hour(tokens.hours)
        if self.gap is not None and tokens.gaps is not None:
            x = x + self.gap(tokens.gaps)
        x = drop(x, self.config.dropout, noise)
        for block in self.blocks[:-1]:
            x = block(x, allowed, None, noise)
        x = self.last(self.blocks[-1](x, allowed, asked, noise))  # (B, A, D)
        out: Tensor = self.out(F.gelu(self.head(x)))
        return out

    def vectors(self, rows: Tensor) -> Tensor:
        """Return (..., D + 1): the tied embeddings and biases of items."""
        bias = F.embedding(rows, self.bias, sparse=self.item.sparse)
        return torch.cat([self.item(rows), bias], -1)


class _Block(nn.Module):
    """One transformer layer; with `asked` it returns those positions alone."""

    def __init__(self, config: BERT4RecConfig, generator: Generator) -> None:
        super().__init__()
        dim, self.heads, self.dropout = config.dim, config.heads, config.dropout
        self.before = nn.LayerNorm(dim)
        self.qkv = _linear(dim, 3 * dim, generator)
        self.output = _linear(dim, dim, generator)
        self.middle = nn.LayerNorm(dim)
        self.wide = _linear(dim, config.hidden, generator)
        self.narrow = _linear(config.hidden, dim, generator)

    def forward(
        self, x: Tensor, allowed: Tensor, asked: Tensor | None, noise: Generator | None
    ) -> Tensor:
        count, length, dim = x.shape
        y = self.before(x)
        if asked is None:
            q, k, v = (self._split(part) for part in self.qkv(y).chunk(3, -1))
            mask = allowed.expand(count, 1, length, length)
        else:
            weight, bias = self.qkv.weight, self.qkv.bias
            place = asked[:, :, None].expand(-1, -1, dim)  # (B, A, D)
            q = self._split(F.linear(y.gather(1, place), weight[:dim], bias[:dim]))
            both = F.linear(y, weight[dim:], bias[dim:])  # (B, L, 2D)
            k, v = (self._split(part) for part in both.chunk(2, -1))
            x = x.gather(1, place)
            mask = allowed
            if allowed.shape[2] > 1:
                mask = allowed.gather(2, asked[:, None, :, None].expand(-1, -1, -1, length))
            mask = mask.expand(count, 1, asked.shape[1], length)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B, H, L or A, D/H)
        seen = seen.transpose(1, 2).reshape(x.shape)
        x = x + drop(self.output(seen), self.dropout, noise)
        y = self.narrow(F.gelu(self.wide(self.middle(x))))
        out: Tensor = x + drop(y, self.dropout, noise)
        return out

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)  # (B, H, L, D/H)


def drop(x: Tensor, share: float, noise: Generator | None) -> Tensor:
    """Dropout with its own generator, so that a resumed run draws what an unbroken one does.

    One random byte decides a value, eight of them in a draw: a tenth of what a draw each takes.
    """
    step = round(share * 256)
    if noise is None or step == 0:
        return x
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device)
    words.random_(-(2**63), None, generator=noise)
    keep = words.view(torch.uint8)[: x.numel()].view(x.shape) >= step
    return x * keep.to(x.dtype).mul_(256 / (256 - step))


def _table(rows: int, dim: int, generator: Generator) -> nn.Embedding:
    weight = torch.randn(rows, dim, generator=generator) * 0.02
    return nn.Embedding(rows, dim, _weight=weight)


def _linear(inputs: int, outputs: int, generator: Generator) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    bound = math.sqrt(3 / inputs)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.zero_()
    return layer
