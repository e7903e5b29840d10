"""Memory of large tables whose rows are read at random."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

LINE = 64
"""Bytes of a line of a processor's cache."""


def roomy(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return zeros that begin with a cache's line and, on a CPU, take memory as they are written.

    Those of torch are written when they are made. NumPy asks the system for large pages.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    count = math.prod(shape) * dtype.itemsize
    space = np.zeros(count + LINE, np.uint8)
    first = -space.ctypes.data % LINE
    return torch.from_numpy(space[first : first + count]).view(dtype).view(shape)


def moved(table: Tensor) -> Tensor:
    """Return a copy of a table whose rows are read at random, in memory as of `roomy`."""
    return roomy(tuple(table.shape), table.dtype, table.device).copy_(table)
