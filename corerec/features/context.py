"""Features of the moment that a request is for: hour of day and day of week, as points on circles.

Used by the two-tower's user tower and by the ranker; only for data with times.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HOUR_MICROS = 3_600_000_000
DAY_MICROS = 24 * HOUR_MICROS
CONTEXT_WIDTH = 4


def context_features(now_micros: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return sine and cosine of the hour of day and of the weekday, UTC.

    Shapes: now_micros (B,), microseconds since 1970-01-01; result (B, 4) float32 in [-1, 1].
    """
    now = np.asarray(now_micros, np.int64)
    hour = (now % DAY_MICROS) / DAY_MICROS * (2 * np.pi)
    # 1970-01-01 was a Thursday; the phase does not matter to a model, only that it is fixed.
    day = (now // DAY_MICROS % 7) / 7 * (2 * np.pi)
    return np.stack([np.sin(hour), np.cos(hour), np.sin(day), np.cos(day)], axis=1).astype(
        np.float32
    )
