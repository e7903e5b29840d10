"""How inner loops are compiled: to machine code at the first call, kept in a cache beside the file.

Compiled functions release the interpreter's lock, so threads run them side by side. Only training
imports this: loading numba takes a fraction of a second that serving need not wait for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Return the function compiled; sums may be taken in another order, and NaN is not expected."""
    try:
        return _compiled(function, cache=True)
    except RuntimeError:
        # No folder for the cache may be written, as in a container: compile in each process.
        return _compiled(function, cache=False)


def _compiled(function: F, *, cache: bool) -> F:
    done = njit(nogil=True, cache=cache, fastmath=True, error_model="numpy")(function)
    return cast(F, done)
