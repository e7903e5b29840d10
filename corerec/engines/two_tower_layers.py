"""Embeddings, linear maps and dropout whose chance comes from a generator that is passed in."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn


def drop(x: Tensor, share: float, noise: Generator | None) -> Tensor:
    """Dropout with its own generator, so that a resumed run draws what an unbroken one does."""
    if noise is None or share == 0:
        return x
    keep = torch.rand(x.shape, generator=noise, device=x.device) >= share
    return x * keep / (1 - share)


def hidden(codes: Tensor, share: float, noise: Generator | None) -> Tensor:
    """Return codes with a share of them made 0, missing."""
    if noise is None or share == 0:
        return codes
    return codes * (torch.rand(codes.shape, generator=noise, device=codes.device) >= share)


def embedding(
    rows: int, dim: int, scale: float, generator: Generator, padding: bool = False
) -> nn.Embedding:
    """Return an embedding of small random rows; with `padding` row 0 is zero and stays so."""
    weight = torch.randn(rows, dim, generator=generator) * scale
    if padding:
        weight[0] = 0
    # sparse: a step must cost what it uses, not what the catalogue holds
    return nn.Embedding(rows, dim, padding_idx=0 if padding else None, sparse=True, _weight=weight)


def embeddings(sizes: tuple[int, ...], dim: int, generator: Generator) -> nn.ModuleList:
    """Return one embedding a column of codes, code 0 missing."""
    return nn.ModuleList(embedding(n, dim, 0.01, generator, padding=True) for n in sizes)


def linear(inputs: int, outputs: int, generator: Generator) -> nn.Linear:
    """Return a linear map with uniform weights and no bias at first."""
    layer = nn.Linear(inputs, outputs)
    bound = 1 / math.sqrt(inputs)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.zero_()
    return layer


def item_space(x: Tensor, bias: float) -> Tensor:
    """Return item vectors as they are scored: unit length, or the last column apart, times `bias`.

    Shapes: x and result (..., D); 0 is no bias.
    """
    if not bias:
        return F.normalize(x, dim=-1)
    return torch.cat([F.normalize(x[..., :-1], dim=-1), x[..., -1:] * bias], dim=-1)


def user_space(x: Tensor, bias: bool) -> Tensor:
    """Return user vectors as they score: unit length, or with `bias` and a last column of ones."""
    if not bias:
        return F.normalize(x, dim=-1)
    return torch.cat([F.normalize(x[..., :-1], dim=-1), torch.ones_like(x[..., -1:])], dim=-1)
