"""The five ways to fuse modalities, one class each. `fusion.py` checks inputs and picks one.

Every strategy's vector is a sum of contributions, one a modality, and a modality that is missing
contributes zero: `forward` takes inputs whose missing rows are zeroed and returns contributions
with, where the strategy has them, its own weights.
"""

# R rows, M modalities, W width of a modality, S sum of all widths, D width out, K rank

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

Parts = tuple[Tensor, Tensor | None]
"""Contributions (R, M, D) and weights (R, M); None where a contribution's norm is its weight."""


PACE = 0.1
"""Factor behind every linear map of a modality: Adam steps as far with weights that all items
share as for the embedding of one rare item, so that content would outrun ids and drown them."""


class Strategy(nn.Module):
    """What the five share: one linear map a modality into the width of the result.

    The base, where there is one, enters as it is.
    """

    def __init__(
        self, widths: Sequence[int], dim: int, rank: int, base: int | None, generator: Generator
    ) -> None:
        super().__init__()
        self.widths, self.dim, self.rank = tuple(widths), dim, rank
        self.project = nn.ModuleList(
            nn.Identity() if place == base else Projection(width, dim, generator)
            for place, width in enumerate(widths)
        )

    def projected(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return (R, M, D) from inputs (R, W) each."""
        parts = [layer(x) for layer, x in zip(self.project, inputs, strict=True)]
        return torch.stack(parts, dim=1)

    def forward(self, inputs: Sequence[Tensor], present: Tensor) -> Parts:
        """Return contributions and weights; present (R, M) bool."""
        raise NotImplementedError


class Projection(nn.Module):
    """A linear map of a modality into the width of the result, slowed by `PACE`."""

    def __init__(self, width: int, dim: int, generator: Generator) -> None:
        super().__init__()
        self.map = linear(width, dim, generator)

    def start_as(self, share: float) -> None:
        """Start as `share` of what comes in; the two widths must be the same."""
        with torch.no_grad():
            nn.init.eye_(self.map.weight).mul_(share / PACE)

    def forward(self, x: Tensor) -> Tensor:
        """Return (R, D) from (R, W)."""
        out: Tensor = self.map(x) * PACE
        return out


class Concat(Strategy):
    """One linear map of all inputs side by side.

    Source: the early fusion that later work compares with, as in Ngiam et al., ICML 2011, sec. 3.
    What differs: no hidden layer, so the map splits into one a modality and a missing modality
    takes its bias with it.
    """

    def forward(self, inputs: Sequence[Tensor], present: Tensor) -> Parts:
        """Return contributions (R, M, D); their norms are the weights."""
        return self.projected(inputs) * present[..., None], None


class Weighted(Strategy):
    """A mean of the modalities with one learned weight each, the same for all rows.

    Source: Peters et al., NAACL 2018, eq. 1 (softmax of learned scalars, times one scale), there
    over layers. What differs: the softmax goes over the modalities that a row has.
    """

    def __init__(
        self, widths: Sequence[int], dim: int, rank: int, base: int | None, generator: Generator
    ) -> None:
        super().__init__(widths, dim, rank, base, generator)
        self.logits = nn.Parameter(torch.zeros(len(widths)))  # (M,)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs: Sequence[Tensor], present: Tensor) -> Parts:
        """Return contributions (R, M, D) and weights (R, M)."""
        weights = masked_softmax(self.logits.expand(present.shape), present)
        return self.projected(inputs) * (weights * self.scale)[..., None], weights


class Attention(Strategy):
    """A mean of the modalities whose weights each row's own contents decide.

    Source: Yang et al., NAACL 2016 (hierarchical attention), eq. 5-7, there over words. What
    differs: the softmax goes over the modalities that a row has.
    """

    def __init__(
        self, widths: Sequence[int], dim: int, rank: int, base: int | None, generator: Generator
    ) -> None:
        super().__init__(widths, dim, rank, base, generator)
        self.inner = linear(dim, rank, generator)
        self.query = nn.Parameter(torch.randn(rank, generator=generator) / math.sqrt(rank))
        # A modality is known by its place too, so that weights differ before contents do.
        self.place = nn.Parameter(torch.zeros(len(widths)))  # (M,)

    def forward(self, inputs: Sequence[Tensor], present: Tensor) -> Parts:
        """Return contributions (R, M, D) and weights (R, M)."""
        values = self.projected(inputs)
        scores = torch.tanh(self.inner(values)) @ self.query + self.place  # (R, M)
        weights = masked_softmax(scores, present)
        return values * weights[..., None], weights


class Gated(Strategy):
    """Each modality's every dimension behind a gate that looks at all modalities.

    Source: Arevalo et al., ICLR 2017 workshop (GMU), sec. 3.1, the form for more than two
    modalities. What differs: a missing modality is zero to the others' gates, and its own
    contribution is left out.
    """

    def __init__(
        self, widths: Sequence[int], dim: int, rank: int, base: int | None, generator: Generator
    ) -> None:
        super().__init__(widths, dim, rank, base, generator)
        self.gate = linear(sum(widths), len(widths) * dim, generator)

    def forward(self, inputs: Sequence[Tensor], present: Tensor) -> Parts:
        """Return contributions (R, M, D); their norms are the weights."""
        side_by_side = torch.cat(list(inputs), dim=1)  # (R, S)
        gates = torch.sigmoid(self.gate(side_by_side)).view(-1, len(self.widths), self.dim)
        return torch.tanh(self.projected(inputs)) * gates * present[..., None], None


class Bilinear(Strategy):
    """The modalities' linear maps plus every pair's products, factorised to a low rank.

    Source: Kim et al., ICLR 2017 (MLB), eq. 6: P(tanh(Ux) * tanh(Vy)); Yu et al., ICCV 2017 (MFB),
    sec. 3. What differs: any number of modalities, each with one factor for all of its pairs
    (Rendle, ICDM 2010, lemma 3.1: the pairs' sum costs what one modality's does), and the linear
    maps, without which a lone modality would be lost. A pair counts half for each of its two.
    """

    def __init__(
        self, widths: Sequence[int], dim: int, rank: int, base: int | None, generator: Generator
    ) -> None:
        super().__init__(widths, dim, rank, base, generator)
        self.factors = nn.ModuleList(linear(width, rank, generator) for width in widths)
        self.pairs = linear(rank, dim, generator, bias=False)

    def forward(self, inputs: Sequence[Tensor], present: Tensor) -> Parts:
        """Return contributions (R, M, D); their norms are the weights."""
        parts = [torch.tanh(layer(x)) for layer, x in zip(self.factors, inputs, strict=True)]
        factors = torch.stack(parts, dim=1) * present[..., None]  # (R, M, K)
        others = factors.sum(1, keepdim=True) - factors
        products = self.pairs(0.5 * factors * others)  # (R, M, D)
        return (self.projected(inputs) + products) * present[..., None], None


def masked_softmax(scores: Tensor, present: Tensor) -> Tensor:
    """Return the softmax over each row's present entries, zero elsewhere and in empty rows.

    Shapes: scores, present (bool) and the result (R, M).
    """
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~present, lowest).softmax(-1) * present


def linear(inputs: int, outputs: int, generator: Generator, *, bias: bool = True) -> nn.Linear:
    """Return a linear layer whose weights come from `generator` alone, its bias zero."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    bound = 1 / math.sqrt(inputs)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        if bias:
            layer.bias.zero_()
    return layer
