"""How the search of 8-bit codes is compiled: at its first call, kept in a cache beside the file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Any:
    """Return the function compiled; NaN and the order of sums are kept."""
    return _compiled(function, fastmath=False)


def compiled_sum(function: Callable[..., Any]) -> Any:
    """Return the function compiled; sums may be taken in another order."""
    return _compiled(function, fastmath={"reassoc", "nsz", "contract"})


def _compiled(function: Callable[..., Any], *, fastmath: Any) -> Any:
    try:
        return njit(nogil=True, cache=True, fastmath=fastmath)(function)
    except RuntimeError:
        # No folder for the cache may be written, as in a container: compile in each process.
        return njit(nogil=True, fastmath=fastmath)(function)
