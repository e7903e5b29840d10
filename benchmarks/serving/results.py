"""From the points of all rounds to what is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.serving.load import Point
from benchmarks.serving.search import LIMIT_MS, Found

MANY = 32
"""Callers at which throughput is compared."""
FULL_ITEMS = 1_000_000
"""Catalogue that the absolute targets are set for; ratios hold for any."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One number to be reached."""

    name: str
    unit: str
    least: float
    aim: float
    lower_is_better: bool = False
    absolute: bool = False
    """Means something only for a catalogue of FULL_ITEMS."""


QPS = f"answers/s with p99 ≤ {LIMIT_MS:g} ms, open loop"
TARGETS = {
    "fp32": Target(name=f"{QPS}, fp32", unit="", least=450, aim=650, absolute=True),
    "bf16": Target(name=f"{QPS}, bf16", unit="", least=700, aim=1000, absolute=True),
    "alone": Target(
        name="one caller, p50", unit=" ms", least=5, aim=3, lower_is_better=True, absolute=True
    ),
    "b": Target(name=f"throughput of a over b, {MANY} callers", unit=" x", least=8, aim=15),
    "c": Target(name=f"throughput of a over c, {MANY} callers", unit=" x", least=3, aim=5),
    "d": Target(name=f"throughput of a over d, {MANY} callers", unit=" x", least=0.5, aim=0.65),
}


def best(points: Sequence[Point]) -> list[Point]:
    """Return, for each peer and number of callers, the round with the most answers a second.

    What disturbs a round only ever slows it down; every peer gets the better of as many rounds.
    """
    chosen: dict[tuple[str, int], Point] = {}
    for point in points:
        place = (point.peer, point.callers)
        if point.callers and (place not in chosen or point.qps > chosen[place].qps):
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


def targets(chosen: Sequence[Point], found: Sequence[Found], items: int) -> list[dict[str, Any]]:
    """Return every target that was measured, beside what was measured."""
    by = {(point.peer, point.callers): point for point in chosen}
    rates = {one.peer: one.qps for one in found}
    measured: dict[str, float] = {}
    if "a" in rates:
        measured["fp32"] = rates["a"]
    if "a16" in rates:
        measured["bf16"] = rates["a16"]
    if ("a", 1) in by:
        measured["alone"] = by["a", 1].p50
    for peer in "bcd":
        if ("a", MANY) in by and (peer, MANY) in by:
            measured[peer] = by["a", MANY].qps / by[peer, MANY].qps
    return [
        _row(TARGETS[key], measured[key])
        for key in TARGETS
        if key in measured and (items >= FULL_ITEMS or not TARGETS[key].absolute)
    ]


def said(row: Mapping[str, Any]) -> str:
    """Return a target and what was measured, in one line."""
    sign = "<=" if row["lower_is_better"] else ">="
    unit = row["unit"]
    return (
        f"{row['name']}: {row['measured']:g}{unit}, target {sign} {row['target']:g}{unit}, "
        f"aim {row['aim']:g}{unit}: {row['reached']}"
    )


def _row(target: Target, measured: float) -> dict[str, Any]:
    def reached(limit: float) -> bool:
        return measured <= limit if target.lower_is_better else measured >= limit

    return {
        "name": target.name,
        "unit": target.unit,
        "target": target.least,
        "aim": target.aim,
        "lower_is_better": target.lower_is_better,
        "measured": round(measured, 3),
        "reached": "aim" if reached(target.aim) else "met" if reached(target.least) else "missed",
    }
