"""Checks of what a request brings to retrieval."""

from __future__ import annotations

import math

import numpy as np

from corerec.errors import InvalidArgument
from corerec.stages import MAX_HISTORY, Float32s, Predicate, UserContext

MAX_CONDITIONS = 16
"""Most conditions of an entry."""
MAX_VALUES = 1000
"""Most values that `any_of` or `none_of` may name."""


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


def is_finite(query: Float32s) -> bool:
    """Say whether a vector (D,) holds neither NaN nor Inf."""
    # A square that is finite has finite parts, and is one call; a huge one may overflow.
    return math.isfinite(query.dot(query)) or bool(np.isfinite(query).all())


def check_where(where: tuple[Predicate, ...]) -> None:
    """Raise InvalidArgument when a condition asks for nothing or for too much."""
    if len(where) > MAX_CONDITIONS:
        raise InvalidArgument(f"where must have at most {MAX_CONDITIONS} conditions: {len(where)}")
    for own in where:
        name = f"condition on {own.attribute!r}"
        if not own.attribute:
            raise InvalidArgument("a condition must name an attribute, got ''")
        if not (own.any_of or own.none_of) and (own.at_least, own.at_most) == (None, None):
            raise InvalidArgument(f"{name} must have any_of, none_of, at_least or at_most")
        for part, values in (("any_of", own.any_of), ("none_of", own.none_of)):
            if len(values) > MAX_VALUES:
                raise InvalidArgument(
                    f"{name}: {part} must have at most {MAX_VALUES} values, got {len(values)}"
                )
        for part, limit in (("at_least", own.at_least), ("at_most", own.at_most)):
            if limit is not None and not math.isfinite(limit):
                raise InvalidArgument(f"{name}: {part} must be finite, got {limit}")
        if own.at_least is not None and own.at_most is not None and own.at_least > own.at_most:
            raise InvalidArgument(
                f"{name}: at_least must not be above at_most, got {own.at_least} and {own.at_most}"
            )
