"""From the points of all rounds to what is compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.serving.load import Point

TARGETS = (
    ("throughput of a over b, 32 callers", "qps", "a", "b", 32, 5.0),
    ("throughput of a over c, 32 callers", "qps", "a", "c", 32, 2.5),
    ("p50 of b over a, 1 caller", "p50", "b", "a", 1, 2.0),
)
"""Name, measure, above, below, callers, at least."""


def best(points: Sequence[Point]) -> list[Point]:
    """Return, for each peer and number of callers, the round with the most answers a second.

    What disturbs a round only ever slows it down; every peer gets the better of as many rounds.
    """
    chosen: dict[tuple[str, int], Point] = {}
    for point in points:
        place = (point.peer, point.callers)
        if place not in chosen or point.qps > chosen[place].qps:
            chosen[place] = point
    return [chosen[place] for place in sorted(chosen)]


def ratios(chosen: Sequence[Point]) -> list[dict[str, Any]]:
    """Return how a compares with every other peer, at each number of callers.

    Each ratio above 1 is in favour of a.
    """
    by = {(point.peer, point.callers): point for point in chosen}
    rows = []
    for (peer, callers), other in sorted(by.items()):
        ours = by.get(("a", callers))
        if peer == "a" or ours is None:
            continue
        rows.append(
            {
                "of": f"a/{peer}",
                "callers": callers,
                "qps": round(ours.qps / other.qps, 3),
                "p50": round(other.p50 / ours.p50, 3),
                "p99": round(other.p99 / ours.p99, 3),
                "cpu_per_request": round(other.cpu_ms_per_request / ours.cpu_ms_per_request, 3),
            }
        )
    return rows


def targets(chosen: Sequence[Point]) -> list[dict[str, Any]]:
    """Return every target that was measured, beside what was measured."""
    by = {(point.peer, point.callers): point for point in chosen}
    rows = []
    for name, measure, above, below, callers, least in TARGETS:
        if (above, callers) in by and (below, callers) in by:
            ratio = getattr(by[above, callers], measure) / getattr(by[below, callers], measure)
            rows.append({"name": name, "target": least, "measured": round(ratio, 3)})
    return rows
