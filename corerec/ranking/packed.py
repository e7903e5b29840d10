"""PackedItems: what the features compare of an item besides its vector, as one row of memory."""

# R rows, J values and M list columns of an item, W words of a row

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from corerec.engines.memory import roomy
from corerec.ranking.tables import ItemTables

HEAD = 4
"""Words before the values: the moment of birth (two), total and recent popularity."""
LINE = 16
"""Words of a line of a processor's cache; a row takes whole ones."""
CHUNK = 65_536


def _zeros(rows: int, words: int) -> NDArray[np.int32]:
    found: NDArray[np.int32] = roomy((rows, words), torch.int32, torch.device("cpu")).numpy()
    return found


class PackedItems:
    """Rows of birth, log of popularity, values and list shares, beside ItemTables on a CPU.

    Reading them costs one line of memory a candidate, where a table each would cost five.
    """

    def __init__(self, tables: ItemTables, popularity: NDArray[np.float32]) -> None:
        """Pack the rows of the training; `popularity` (2, N + 1) counts, of the blank row 0."""
        self._tables = tables
        self._popularity = np.log1p(popularity)
        self.version = 0
        """How often rows were read anew."""
        self.values = tables.values.shape[1]
        self.lists = tables.multi_share.shape[1]
        words = HEAD + self.values + self.lists
        self._words = _zeros(tables.room, -(-words // LINE) * LINE)
        for start in range(0, len(tables) + 1, CHUNK):
            self.refresh(np.arange(start, min(start + CHUNK, len(tables) + 1)))

    @property
    def arrays(self) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
        """Return the table (R, W) as words, as numbers and, (R, W / 2), as moments."""
        return self._words, self._words.view(np.float32), self._words.view(np.int64)

    def of(self, tables: ItemTables) -> tuple[Any, ...]:
        """Return what `fill_pairs` reads of items: these rows, the tower, how to read them."""
        schema = tables.schema
        used = tables.used if schema.item_multi else 0
        return *self.arrays, tables.tower.numpy(), schema.has_times, used

    def refresh(self, rows: NDArray[np.int64]) -> None:
        """Read rows (n,) of the tables anew, after they changed there."""
        if self._tables.room > len(self._words):
            wider = _zeros(self._tables.room, self._words.shape[1])
            wider[: len(self._words)] = self._words
            self._words = wider
        words, floats, moments = self.arrays
        own = self._tables
        moments[rows, 0] = own.born_micros.numpy()[rows]
        trained = rows[rows <= len(own)]  # nobody has counted what came later
        floats[trained, 2:HEAD] = self._popularity[:, trained].T
        shares = HEAD + self.values
        words[rows, HEAD:shares] = own.values.numpy()[rows]
        floats[rows, shares : shares + self.lists] = own.multi_share.numpy()[rows]
        self.version += 1
