"""FoldedDlrm: a DLRM over the ranker's rows, parted into per item, per request and per pair.

Of the dot products, those between a request's own vectors are computed once for it, those between
an item's own at load; both enter the first top layer, which is linear, so what is kept of them is
their columns of it. The bottom network's first layer is parted in the same way. Per pair are left
the comparisons' part of the bottom, and the products between the sides. This is exact;
`RankingModel.forward` is the oracle.
"""

# B requests, n candidates, E width of vectors, Vu, Vi vectors of user and item, H first top layer,
# G first bottom layer, Du, Di, Dp inputs of user, item and comparison, T tasks

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from corerec.engines.dlrm import dot_interaction
from corerec.engines.memory import roomy
from corerec.ranking.fold import layers_of
from corerec.ranking.rows import RowDlrm


class FoldedDlrm:
    """Scores pairs of users and rows of a table of items."""

    @torch.no_grad()
    def __init__(self, dlrm: RowDlrm, users: int, items: int, *, half: bool = False) -> None:
        """Part a network in evaluation mode, whose rows begin with the user's inputs."""
        self._half = half
        parts = list(zip(dlrm.widths, dlrm.embedded, strict=True))
        self._user_parts, rest = _until(parts, users)
        self._item_parts, _ = _until(rest, items)
        weights = [cast(nn.Linear, layer).weight.detach().T for layer in dlrm.project]
        own = sum(embedded for _, embedded in self._user_parts)
        self._user_weights, self._item_weights = weights[:own], weights[own:]
        self._vectors, self._width = (own, len(weights) - own), weights[0].shape[1]
        net = dlrm.net
        if net.bottom is None:
            raise ValueError("the ranker's rows always hold numbers, so there is a bottom network")
        (first, self._bottom_bias), *self._bottom = layers_of(net.bottom.linear, net.bottom.norm)
        numbers = [
            sum(w for w, e in part if not e) for part in (self._user_parts, self._item_parts)
        ]
        self._bottom_user, self._bottom_item, self._bottom_pair = torch.split(
            first, [*numbers, len(first) - sum(numbers)]
        )
        (top, self._top_bias), *self._top = layers_of(net.top.linear, net.top.norm)
        self._head, self._head_bias = net.head.weight.detach().T, net.head.bias.detach()
        self._part_top(top, passes=net.config.pass_vectors)
        self._columns = (top.shape[1], first.shape[1])  # H, G

    def _part_top(self, top: Tensor, *, passes: bool) -> None:
        """Part the first top layer's weights (inputs, H) by what they read."""
        (own, other), width = self._vectors, self._width
        count = 1 + own + other
        passed = count * width if passes else width
        vectors, dots = top[:passed], top[passed:]
        row, column = torch.tril_indices(count, count, -1, device=top.device)
        user_row, user_column = (row >= 1) & (row <= own), (column >= 1) & (column <= own)
        item_row, item_column = row > own, column > own
        self._within_user = dots[user_row & user_column]
        self._within_item = dots[item_row & item_column]
        self._across = torch.cat(
            [
                vectors[:width],  # the bottom's vector
                dots[user_row & (column == 0)],
                dots[item_row & (column == 0)],
                dots[item_row & user_column],  # by item's vector, then by user's
            ]
        )
        self._pass_user, self._pass_item = torch.split(
            vectors[width:], [own * width, other * width] if passes else [0, 0]
        )

    def table(self, rows: int) -> Tensor:
        """Return room for what is kept of so many items: vectors, columns of top and bottom."""
        wide = self._vectors[1] * self._width + sum(self._columns)
        return roomy((rows, wide), torch.float32, self._head.device)

    @torch.no_grad()
    def items(self, inputs: Tensor) -> Tensor:
        """Return what is kept of items. Shapes: inputs (m, Di), result (m, Vi E + H + G)."""
        vectors, numbers = _project(inputs, self._item_parts, self._item_weights)
        columns = dot_interaction(vectors) @ self._within_item
        if len(self._pass_item):
            columns = columns + vectors.flatten(1) @ self._pass_item
        return torch.cat([vectors.flatten(1), columns, numbers @ self._bottom_item], dim=1)

    @torch.no_grad()
    def __call__(self, user: Tensor, table: Tensor, candidates: Tensor, pairs: Tensor) -> Tensor:
        """Return logits (T, B, n).

        Shapes: user (B, Du); table as `items` fills it; candidates (B, n) rows of it; pairs
        (Dp, B, n).
        """
        (cases, count), (own, other), width = candidates.shape, self._vectors, self._width
        kept = table.index_select(0, candidates.reshape(-1)).view(cases, count, table.shape[1])
        with torch.autocast(table.device.type, torch.bfloat16, enabled=self._half):
            of_user, numbers = _project(user, self._user_parts, self._user_weights)  # (B, Vu, E)
            columns = dot_interaction(of_user) @ self._within_user + self._top_bias  # (B, H)
            if len(self._pass_user):
                columns = columns + of_user.flatten(1) @ self._pass_user
            items, top, low = torch.split(kept, [other * width, *self._columns], dim=2)
            low = low + pairs.permute(1, 2, 0) @ self._bottom_pair
            low = (low + (numbers @ self._bottom_user + self._bottom_bias)[:, None]).relu()
            dense = _through(low, self._bottom)  # (B, n, E)
            items = items.reshape(cases, count * other, width)
            between = torch.bmm(items, of_user.transpose(1, 2))  # (B, n Vi, Vu)
            by_item = items.view(cases, count, other, width)
            with_items = (by_item * dense[:, :, None]).sum(3)  # (B, n, Vi)
            with_user = torch.bmm(dense, of_user.transpose(1, 2))  # (B, n, Vu)
            read = [dense, with_user, with_items, between.view(cases, count, other * own)]
            hidden = torch.cat(read, dim=2) @ self._across + top
            hidden = _through((hidden + columns[:, None]).relu(), self._top)
            logits = hidden @ self._head + self._head_bias
        return logits.float().permute(2, 0, 1)


def _until(
    parts: list[tuple[int, bool]], wide: int
) -> tuple[list[tuple[int, bool]], list[tuple[int, bool]]]:
    """Return the first parts, which together are so wide, and the others."""
    place = 0
    while wide > 0:
        wide -= parts[place][0]
        place += 1
    return parts[:place], parts[place:]


def _project(
    inputs: Tensor, parts: list[tuple[int, bool]], weights: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the vectors (m, V, E) and numbers (m, M) of inputs (m, D)."""
    pieces = torch.split(inputs, [width for width, _ in parts], dim=1)
    embedded = [piece for piece, (_, own) in zip(pieces, parts, strict=True) if own]
    numbers = [piece for piece, (_, own) in zip(pieces, parts, strict=True) if not own]
    vectors = [piece @ weight for piece, weight in zip(embedded, weights, strict=True)]
    return torch.stack(vectors, dim=1), torch.cat([inputs[:, :0], *numbers], dim=1)


def _through(hidden: Tensor, layers: list[tuple[Tensor, Tensor]]) -> Tensor:
    for weight, bias in layers:
        hidden = F.linear(hidden, weight.T, bias).relu()
    return hidden
