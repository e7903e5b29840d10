"""Finds the most calls a second, in an open loop, that a peer answers fast enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.serving.load import Load, Point

LIMIT_MS = 30.0
"""What 99 of 100 answers must keep to."""
MIN_ANSWERED = 0.98
"""Of the offered rate; less means that answers pile up, whatever those that came in time took."""
CLOSE = 1.04
"""Bisection ends when the lowest failed rate is so near to the highest good one."""
PROBES = 7
CONFIRMATIONS = 5
STEP_DOWN = 0.95
LOWEST = 2.0
"""Calls a second below which a peer counts as not able."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The outcome of one search."""

    peer: str
    best: Point | None
    """The confirming load, at the rate that was found; None: no rate was good."""
    why_none: str = ""
    poisson: Point | None = None
    """The same rate, arriving as independent users come."""
    probes: list[Point] = field(default_factory=list)

    @property
    def qps(self) -> float:
        """Answers a second at the rate that was found, 0 without one."""
        return self.best.qps if self.best else 0.0


def good(point: Point, limit_ms: float = LIMIT_MS) -> bool:
    """Return whether all was answered, completely, and 99 of 100 in time."""
    return (
        point.ok > 0
        and not point.errors
        and not point.degraded
        and point.p99 <= limit_ms
        and point.qps >= MIN_ANSWERED * point.rate
    )


def search(measure: Callable[[Load], Point], *, peer: str, guess: float, seconds: float) -> Found:
    """Bisect from a guess, then confirm with loads twice as long.

    A rate is bad when two probes of it are: what else the machine does only makes one worse, and a
    bad rate bounds the search for good.

    Args:
        measure: runs one load.
        guess: answers a second of the peer's best closed loop.
        seconds: length of each probe.
    """
    probes: list[Point] = []

    def probe(rate: float, length: float) -> Point:
        probes.append(measure(Load(rate=round(rate, 1), seconds=length)))
        return probes[-1]

    low, high, rate = 0.0, 0.0, 0.75 * guess
    for _ in range(PROBES):
        if rate < LOWEST:
            break
        if good(probe(rate, seconds)) or good(probe(rate, seconds)):
            low = rate
        else:
            high = rate
        if high and low and high / low < CLOSE:
            break
        rate = (low + high) / 2 if low and high else (low * 1.2 if low else high * 0.6)
    for _ in range(CONFIRMATIONS if low else 0):
        best = probe(low, 2 * seconds)
        if good(best):
            users = measure(Load(rate=best.rate, seconds=2 * seconds, arrivals="poisson"))
            return Found(peer=peer, best=best, poisson=users, probes=probes)
        low *= STEP_DOWN
    return Found(peer=peer, best=None, why_none="no rate was kept up twice", probes=probes)
