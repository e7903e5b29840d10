"""How inner loops are compiled: to machine code at the first call, kept in a cache beside the file.

Compiled functions release the interpreter's lock, so threads run them side by side. Loading numba
takes a fraction of a second, so modules that may do without import this where they need it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Return the function compiled; sums may be taken in another order, and NaN is not expected."""
    return _compiled(function, fastmath=True)


def compiled_exactly(function: F) -> F:
    """Return the function compiled; NaN, infinity and the order of sums are kept."""
    return _compiled(function, fastmath=False)


def _compiled(function: F, *, fastmath: bool) -> F:
    options: dict[str, Any] = {"nogil": True, "fastmath": fastmath, "error_model": "numpy"}
    try:
        done = njit(cache=True, **options)(function)
    except RuntimeError:
        # No folder for the cache may be written, as in a container: compile in each process.
        done = njit(**options)(function)
    return cast(F, done)
