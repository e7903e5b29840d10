"""PackedItems: what the features compare of an item besides its vector, as one row of memory."""

# R rows, J values and M list columns of an item, W words of a row

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from corerec.ranking.tables import ItemTables

HEAD = 4
"""Words before the values: the moment of birth (two), total and recent popularity."""
LINE = 16
"""Words of a line of a processor's cache; a row takes whole ones."""
CHUNK = 65_536


def roomy_zeros(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return zeros on large pages, where there are such, that take memory when they are written.

    Rows that are read at random then miss the processor's table of pages less often.
    """
    count = int(np.prod(shape, dtype=np.int64))
    space = mmap.mmap(-1, max(count * np.dtype(dtype).itemsize, 1))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        space.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(space, dtype, count).reshape(shape)


class PackedItems:
    """Rows of birth, log of popularity, values and list shares, beside ItemTables on a CPU.

    Reading them costs one line of memory a candidate, where a table each would cost five.
    """

    def __init__(self, tables: ItemTables, popularity: NDArray[np.float32]) -> None:
        """Pack the rows of the training; `popularity` (2, N + 1) counts, of the blank row 0."""
        self._tables = tables
        self._popularity = np.log1p(popularity)
        self.values = tables.values.shape[1]
        self.lists = tables.multi_share.shape[1]
        words = HEAD + self.values + self.lists
        self._words = roomy_zeros((tables.room, -(-words // LINE) * LINE), np.int32)
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
        if (more := self._tables.room - len(self._words)) > 0:
            wider = roomy_zeros((len(self._words) + more, self._words.shape[1]), np.int32)
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
