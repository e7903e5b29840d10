"""Content neighbours: which items look or sound alike, so that they may share what is learned."""

# N items, W width of a vector set, n neighbours

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_SCORES = 16_000_000
"""Cosines that are held at once: 64 MB."""


def content_neighbours(vectors: Tensor, count: int) -> Tensor:
    """Return (N, n) int64: the items of highest cosine to each, best first, -1 where there is none.

    An item whose vector is zero, missing that is, has no neighbours and is nobody's. The search is
    exact over all pairs: 10^5 items of width 128 take about half a minute of one core.

    Shapes: vectors (N, W), finite. Source: the item-item graphs of Zhang et al., MM 2021 (LATTICE),
    eq. 1-2.
    """
    own = torch.arange(len(vectors), device=vectors.device)
    return nearest_among(vectors, vectors, count, own)


# Not in inference mode, even where that is on: the result serves training too.
@torch.inference_mode(False)
@torch.no_grad()
def nearest_among(asked: Tensor, vectors: Tensor, count: int, own: Tensor) -> Tensor:
    """Return (R, n) int64: the items of highest cosine to each asked vector, as above.

    Shapes: asked (R, W), finite; vectors (N, W); own (R,), the item that an asked one is itself,
    which is not its neighbour; N where it is none.
    """
    unit, there = F.normalize(vectors.float(), dim=1), (vectors != 0).any(1)
    asking, has = F.normalize(asked.float(), dim=1), (asked != 0).any(1)
    places = torch.arange(len(unit), device=unit.device)
    found = torch.full((len(asked), count), -1, dtype=torch.int64, device=unit.device)
    most = min(count, len(unit))
    step = max(1, _SCORES // max(1, len(unit)))
    for start in range(0, len(asked), step):
        part = slice(start, start + step)
        cosines = asking[part] @ unit.T
        cosines.masked_fill_(~there | (places == own[part, None]), -torch.inf)
        best, near = cosines.topk(most, dim=1)
        near.masked_fill_(~best.isfinite() | ~has[part, None], -1)
        found[part, :most] = near
    return found


def neighbour_mean(embeddings: Tensor, near: Tensor) -> Tensor:
    """Return (R, D): the mean embedding of each row's neighbours, zero where it has none.

    Shapes: embeddings (R, n, D) of `near` with -1 looked up as anything; near (R, n).
    """
    known = near >= 0
    total = (embeddings * known[..., None]).sum(1)
    return total / known.sum(1, keepdim=True).clamp(min=1)
