"""Small operations on the arrays of a store."""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from corerec.retrieval.stores.base import Mask
from corerec.retrieval.stores.spec import Metric
from corerec.stages import Float32s, Int64s

A = TypeVar("A", bound=NDArray[Any])
_PAGE = 1 << 21
"""Bytes of a large page."""


def large(shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
    """Return an array to be filled, of memory of its own in large pages where the kernel has them.

    For what is read at random. NumPy's memory may be small pages of before, and begins anywhere,
    so that a vector register's load takes two cache lines.
    """
    size = math.prod(shape) * np.dtype(kind).itemsize
    if size < _PAGE:
        return np.empty(shape, kind)
    memory = mmap.mmap(-1, size + _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(AttributeError, OSError):  # as on other systems
        memory.madvise(mmap.MADV_HUGEPAGE)
    raw = np.frombuffer(memory, np.uint8)
    start = -raw.ctypes.data % _PAGE
    array: NDArray[Any] = raw[start : start + size].view(kind).reshape(shape)
    return array


def unit(vectors: Float32s) -> Float32s:
    """Return rows (n, D) at length 1; those of length 0, or of length 1 already, are left alone."""
    squares = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    rows = np.flatnonzero((np.abs(squares - 1) > 1e-6) & (squares > 0))
    if not len(rows):
        return vectors
    vectors = vectors.copy()
    vectors[rows] = vectors[rows] / np.sqrt(squares[rows])[:, None]
    return vectors


def squared_lengths(vectors: Float32s) -> Float32s:
    """Return the squared lengths (n,) of rows (n, D)."""
    found: Float32s = np.einsum("nd,nd->n", vectors, vectors)
    return found


def prepared(queries: Float32s, metric: Metric) -> Float32s:
    """Return queries as they are multiplied: contiguous, writable, of length 1 for cosine."""
    if metric == "cosine":
        queries = unit(queries)
    return queries if queries.flags.carray else np.require(queries, np.float32, ["C", "W"])


def grown(array: A, size: int, used: int) -> A:
    """Return an array of at least `size` rows that begins with the first `used` of this one."""
    if size <= len(array):
        return array
    # With room for what comes, so that adding seldom copies: memory not touched costs nothing.
    fresh = np.empty((size * 5 // 4 + 8, *array.shape[1:]), array.dtype)
    fresh[:used] = array[:used]
    return fresh  # type: ignore[return-value]


def inside(numbers: Int64s, allowed: Mask) -> Mask:
    """Return which of the numbers (n,) are allowed; those beyond the mask are not."""
    if len(numbers) and numbers.max() < len(allowed):
        return allowed[numbers]
    known = numbers < len(allowed)
    known[known] = allowed[numbers[known]]
    return known


def positions(numbers: Int64s, wanted: Sequence[Int64s] | None) -> list[Int64s] | None:
    """Return where each array of wanted numbers lies among distinct numbers (n,), if it does."""
    if wanted is None:
        return None
    if not len(numbers):
        return [np.empty(0, np.int64) for _ in wanted]
    places = None if (np.diff(numbers) > 0).all() else np.argsort(numbers)
    ordered = numbers if places is None else numbers[places]
    found = []
    for own in wanted:
        at = np.searchsorted(ordered, own)
        at[at == len(ordered)] = 0
        at = at[ordered[at] == own]
        found.append(at if places is None else places[at])
    return found
