"""How the search of 8-bit codes is compiled: as everything is, without types for what it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from corerec.engines import compiled as how


def compiled(function: Callable[..., Any]) -> Any:
    """Return the function compiled; NaN and the order of sums are kept."""
    return how.compiled_exactly(function)


def compiled_sum(function: Callable[..., Any]) -> Any:
    """Return the function compiled; sums may be taken in another order."""
    return how.compiled_sum(function)
