"""Compiled: asks for memory ahead of reading it.

The rows of a list's items lie anywhere in tables of a million, and each read waits for the last:
asked for together they come together, in under half the time.
"""

from __future__ import annotations

import numpy as np

from corerec.engines.compiled import compiled
from corerec.ranking.lanes import fetch
from corerec.stages import Int64s

_LINE = 64
"""Bytes that memory is read in."""


@compiled
def ask_for(rows: Int64s, address: int, width: int) -> None:
    """Ask for rows (n,) of a table at an address whose rows are `width` bytes."""
    for row in rows:
        for offset in range(0, width, _LINE):
            fetch(np.int64(address) + row * width + offset)
