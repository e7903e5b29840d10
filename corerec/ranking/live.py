"""Which row of ItemTables a number of the live catalogue has, and what an applied change means."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from corerec.live.arrays import Growing
from corerec.live.content import ContentSide
from corerec.ranking.folded import FoldedRanker, PlainRanker
from corerec.stages import Int64s
from corerec.store.catalogue import Item, ItemChange

log = logging.getLogger(__name__)


class LiveRows:
    """Rows of N items of the training and of those that came later; the others have none."""

    def __init__(self, count: int) -> None:
        """Begin with the items of the training, numbers below `count`."""
        self.count = count
        self._known = Growing(np.zeros(0, np.bool_), False)  # by number - N

    def put(self, numbers: Int64s) -> Int64s:
        """Give each number (n,) its row, and return the rows."""
        later = numbers[numbers >= self.count] - self.count
        if len(later):
            self._known.grow(int(later.max()) + 1)
            self._known.values[later] = True
        return self._shift(numbers)

    def candidates(self, numbers: Int64s) -> Int64s:
        """Return rows of numbers >= 0 of any shape; the blank one, N, of those without a row."""
        if not len(numbers) or numbers.max() < self.count:
            return numbers
        return np.where(self._has(numbers), self._shift(numbers), self.count)

    def history(self, numbers: Int64s) -> Int64s:
        """Return rows of numbers (H,), -1 of those without a row."""
        if not len(numbers) or (numbers.max() < self.count and numbers.min() >= 0):
            return numbers
        return np.where(self._has(numbers), self._shift(numbers), -1)

    def _has(self, numbers: Int64s) -> NDArray[np.bool_]:
        later = numbers - self.count
        inside = (later >= 0) & (later < len(self._known))
        found = (numbers >= 0) & (later < 0)
        found[inside] = self._known.values[later[inside]]
        return found

    def _shift(self, numbers: Int64s) -> Int64s:
        return numbers + (numbers >= self.count)  # row N is the blank one


class LiveItems:
    """Applies changes to a ranker's tables; deleted items stay as they were."""

    def __init__(self, ranker: FoldedRanker | PlainRanker, content: ContentSide | None) -> None:
        self._ranker, self._tables, self._content = ranker, ranker.tables, content
        self.rows = LiveRows(len(ranker.tables))
        self.position = 0
        """Position of the newest change that was applied."""
        self.refused = 0
        """Changes whose items the models could not read."""

    def apply(self, changes: Sequence[ItemChange]) -> None:
        """Put changed items into the tables, each at the cost of one row."""
        fresh = [change for change in changes if change.position > self.position]
        items = [change.item for change in fresh if change.item is not None]
        if items and self._content is not None:
            self._put([c.number for c in fresh if c.item is not None], items, self._content)
        if fresh:
            self.position = fresh[-1].position

    def _put(self, numbers: list[int], items: list[Item], content: ContentSide) -> None:
        found = content.encode_good(np.array(numbers, np.int64), items)
        for error in found.refused:
            self.refused += 1
            log.warning("an item cannot be ranked as it is now", extra={"reason": str(error)})
        rows = self.rows.put(found.numbers)
        tower = content.space(found, self._tables.tower.shape[1])
        self._tables.put(rows, found.features, tower)
        self._ranker.refresh(torch.from_numpy(rows).to(self._tables.device))
