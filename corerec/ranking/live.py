"""What an applied change of the catalogue means for the ranker's tables."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from corerec.live.content import ContentSide
from corerec.live.numbers import LiveRows
from corerec.ranking.precision import Ranker
from corerec.store.catalogue import Item, ItemChange

log = logging.getLogger(__name__)


class LiveItems:
    """Applies changes to a ranker's tables; deleted items stay as they were."""

    def __init__(
        self,
        ranker: Ranker,
        content: ContentSide | None,
        rows: LiveRows,
        refresh: Callable[[NDArray[np.int64]], None],
    ) -> None:
        """Give items rows in `rows`; `refresh` is told which rows of all tables changed."""
        self._ranker, self._tables, self._content = ranker, ranker.tables, content
        self._rows, self._refresh = rows, refresh
        self.position = 0
        """Position of the newest change that was applied."""
        self.refused = 0
        """Changes whose items the models could not read."""

    def apply(self, changes: Sequence[ItemChange]) -> None:
        """Put changed items into the tables, each at the cost of one row."""
        fresh = [change for change in changes if change.position > self.position]
        put = {change.number: change.item for change in fresh if change.item is not None}
        if put and self._content is not None:
            self._put(list(put), list(put.values()), self._content)
        if fresh:
            self.position = fresh[-1].position

    def _put(self, numbers: list[int], items: list[Item], content: ContentSide) -> None:
        found = content.encode_good(np.array(numbers, np.int64), items)
        for error in found.refused:
            self.refused += 1
            log.warning("an item cannot be ranked as it is now", extra={"reason": str(error)})
        rows = self._rows.put(found.numbers)
        tower = content.space(found, self._tables.tower.shape[1])
        self._tables.put(rows, found.features, tower)
        self._ranker.refresh(torch.from_numpy(rows).to(self._tables.device))
        self._refresh(rows)
