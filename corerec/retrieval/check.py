"""Checks of what a request brings to retrieval."""

from __future__ import annotations

import numpy as np

from corerec.errors import InvalidArgument
from corerec.stages import MAX_HISTORY, UserContext


def check_history(user: UserContext) -> None:
    """Raise InvalidArgument when history columns or the moment break a rule."""
    if user.items.ndim != 1 or user.items.dtype != np.int64 or user.times.dtype != np.int64:
        raise InvalidArgument(
            "history columns must be one-dimensional int64, "
            f"got {user.items.dtype} {user.items.shape} and {user.times.dtype} {user.times.shape}"
        )
    if len(user.items) > MAX_HISTORY:
        raise InvalidArgument(f"history must have at most {MAX_HISTORY} events: {len(user.items)}")
    if user.times.shape != user.items.shape:
        raise InvalidArgument(
            f"history must have one time an event, got {len(user.items)} items "
            f"and {len(user.times)} times"
        )
    if user.now < 0:
        raise InvalidArgument(f"now must be microseconds since 1970, >= 0, got {user.now}")
