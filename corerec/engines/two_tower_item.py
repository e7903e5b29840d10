"""The item tower: id, attributes, words of the title and content vectors to one vector."""

# R item rows, N items, D width, V width of the vector sets, M modalities

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Generator, Tensor, nn

from corerec.engines.two_tower_config import TwoTowerConfig
from corerec.engines.two_tower_layers import drop, embedding, embeddings, hidden, linear
from corerec.engines.two_tower_shape import ItemContent, TwoTowerShape
from corerec.multimodal.fusion import MultiModalFusion
from corerec.multimodal.neighbours import content_neighbours, nearest_among, neighbour_mean

ID = "id"
"""Name of the modality of id, attributes and title; the others are named as their vector sets."""
NEAR = " neighbours"
"""Ends the name of the modality of a vector set's neighbours."""
_NEAR_START = 0.3
"""Share of its neighbours' ids that an item starts with."""


class ItemTower(nn.Module):
    """Item id and content to a vector; row N is the start of every history."""

    def __init__(self, config: TwoTowerConfig, shape: TwoTowerShape, generator: Generator) -> None:
        super().__init__()
        self.start = shape.items
        self.id_dropout, self.content_dropout = config.id_dropout, config.content_dropout
        self.id = embedding(shape.items + 1, config.dim, 0.05, generator)
        self.categorical = embeddings(shape.item_categorical, config.dim, generator)
        self.multi = embeddings(shape.item_multi, config.dim, generator)
        self.title = embedding(shape.title_buckets, config.dim, 0.01, generator, padding=True)
        self.neighbours = config.neighbours
        self._near: tuple[ItemContent, dict[str, Tensor]] | None = None
        self.dense: nn.Linear | None = None
        self.fusion: MultiModalFusion | None = None
        self.names = tuple(own.name for own in shape.item_vectors)
        self.widths = [own.width for own in shape.item_vectors]
        fused = config.fusion != "sum" and bool(self.names)
        dense = shape.item_numeric + (0 if fused else shape.vector_width)
        if dense:
            self.dense = linear(dense, config.dim, generator)
        if fused:
            widths = {ID: config.dim} | dict(zip(self.names, self.widths, strict=True))
            near = [name + NEAR for name in self.names if config.neighbours]
            widths |= dict.fromkeys(near, config.dim)
            self.fusion = MultiModalFusion(
                config.fusion, widths, config.dim, generator=generator, base=ID
            )
            for name in near:
                self.fusion.start_as_base(name, _NEAR_START)

    def forward(self, rows: Tensor, content: ItemContent, noise: Generator | None) -> Tensor:
        """Return (R, D), not normalised, for rows (R,) in [0, N]; `noise` drops ids in training."""
        ids = self.id(rows)  # (R, D)
        is_item = (rows != self.start)[:, None]
        if noise is not None and self.id_dropout > 0:
            # What stays is not scaled up: a dropped id is a cold item, the rest is as it serves.
            keep = torch.rand(len(rows), 1, generator=noise, device=rows.device) >= self.id_dropout
            ids = ids * (keep | ~is_item)
        real = rows.clamp(max=self.start - 1)
        near = {name: table[real] for name, table in self._neighbours(content).items()}
        return self._joined(ids, real, content, near, is_item, noise)

    def described(self, rows: Tensor, content: ItemContent, among: ItemContent | None) -> Tensor:
        """Return (R, D) of items that a table of content, row by row, describes as they are now.

        An item without an id of its own, rows N, is its content alone. `among` is the content that
        the model was trained with, for a tower with neighbours: they are sought there.

        Shapes: rows (R,) in [0, N]; content R rows.
        """
        has_id = (rows != self.start)[:, None]
        near: dict[str, Tensor] = {}
        if self.neighbours and among is not None:
            asked = torch.split(content.vectors, self.widths, dim=1)
            known = torch.split(among.vectors, self.widths, dim=1)
            for name, own, table in zip(self.names, asked, known, strict=True):
                near[name] = nearest_among(own, table, self.neighbours, rows)
        places = torch.arange(len(rows), device=rows.device)
        everything = torch.ones_like(has_id)
        return self._joined(self.id(rows) * has_id, places, content, near, everything, None)

    def _joined(
        self,
        ids: Tensor,
        places: Tensor,
        content: ItemContent,
        near: Mapping[str, Tensor],
        is_item: Tensor,
        noise: Generator | None,
    ) -> Tensor:
        """Return (R, D) of ids (R, D) and the content at places (R,), which only items have."""
        own: Tensor = ids + self._attributes(places, content, noise) * is_item
        if self.fusion is None:
            return own
        vectors = drop(content.vectors[places], self.content_dropout, noise) * is_item  # (R, V)
        inputs = dict(zip(self.names, torch.split(vectors, self.widths, dim=1), strict=True))
        for name, found in near.items():
            mean = neighbour_mean(self.id(found.clamp(min=0)), found)
            inputs[name + NEAR] = mean * is_item
        present = {name: (part != 0).any(1) for name, part in inputs.items()}
        out: Tensor = self.fusion({ID: own, **inputs}, present).vector
        return out

    def _neighbours(self, content: ItemContent) -> dict[str, Tensor]:
        """Return (N, n) item numbers by vector set, found once for the same content."""
        if not self.neighbours:
            return {}
        if self._near is None or self._near[0] is not content:
            parts = torch.split(content.vectors, self.widths, dim=1)
            tables = [content_neighbours(part, self.neighbours) for part in parts]
            self._near = content, dict(zip(self.names, tables, strict=True))
        return self._near[1]

    def _attributes(self, rows: Tensor, content: ItemContent, noise: Generator | None) -> Tensor:
        share = self.content_dropout
        words = hidden(content.title[rows], share, noise)  # (R, W), the embedding of 0 is zero
        out: Tensor = self.title(words).sum(1) / (words > 0).sum(1, keepdim=True).clamp(min=1)
        for column, table in enumerate(self.categorical):
            out = out + table(hidden(content.categorical[rows, column], share, noise))
        for column, table in enumerate(self.multi):
            codes = hidden(content.multi[rows, column], share, noise)  # (R, K)
            present = (codes > 0).sum(1, keepdim=True).clamp(min=1)
            out = out + table(codes).sum(1) / present
        if self.dense is not None:
            dense = content.numeric[rows]
            if self.fusion is None:
                dense = torch.cat([dense, content.vectors[rows]], dim=1)
            out = out + self.dense(drop(dense, share, noise))
        return out  # (R, D)
