"""Two-tower model: a user's recent events and an item's content, as unit vectors of one space.

Source: Yi et al., RecSys 2019, sec. 3 (two towers, cosine, temperature). What differs: the item
embedding serves the history and the candidates alike, and the history is attended to, or averaged.
Training is in `two_tower_fit.py`, the estimator in `two_tower.py`.
"""

# N items, D width

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor, nn

from corerec.engines.two_tower_config import TwoTowerConfig
from corerec.engines.two_tower_item import ItemTower
from corerec.engines.two_tower_layers import item_space
from corerec.engines.two_tower_shape import ItemContent, TwoTowerShape
from corerec.engines.two_tower_user import UserTower

CHUNK = 65_536
"""Items that go through the tower at once when all of them do."""


class TwoTowerNet(nn.Module):
    """Both towers; the item embedding serves the history and the candidates alike."""

    def __init__(self, config: TwoTowerConfig, shape: TwoTowerShape, generator: Generator) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        self.item = ItemTower(config, shape, generator)
        self.user = UserTower(config, shape, generator)

    @torch.inference_mode()
    def item_chunks(self, content: ItemContent, chunk: int = CHUNK) -> Iterator[Tensor]:
        """Yield item vectors before normalisation, at most (chunk, D) at once, N + 1 in all."""
        device = self.item.id.weight.device
        for first in range(0, self.shape.items + 1, chunk):
            last = min(first + chunk, self.shape.items + 1)
            yield self.item(torch.arange(first, last, device=device), content, None)

    def item_base(self, content: ItemContent, chunk: int = CHUNK) -> Tensor:
        """Return (N + 1, D) item vectors before normalisation; the last row is the start."""
        return torch.cat(list(self.item_chunks(content, chunk)))

    def item_vectors(self, base: Tensor) -> Tensor:
        """Return the vectors that are scored by, (R, D), of item vectors before normalisation."""
        # The temperature divides the bias too: a step of Adam must not move it as many times more.
        return item_space(base, self.config.temperature if self.config.bias else 0.0)
