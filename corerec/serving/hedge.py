"""When to ask a second replica for what a first one is late with, and how often that may be.

Only for reads: a call that is sent twice must change nothing.
"""

from __future__ import annotations

from collections import deque

EXTRA_SHARE = 0.05
"""Second RPCs a first one, in the long run."""
_MOST_SAVED = 5.0  # second RPCs that quiet times save up for a bad moment
# Late at the 95th percentile would be 5% of all RPCs: the whole budget, and none left for a stall.
_QUANTILE = 0.98
_WINDOW = 256
_LEAST = 32  # latencies that must be known before anything is called late
_EVERY = 16  # latencies between two looks at the quantile
_LEAST_SECONDS = 0.001

_SLOW_FACTOR, _SLOW_SECONDS = 3.0, 0.02
_TRY_SLOW_EVERY = 64


class Hedge:
    """The running 98th percentile of RPC latencies, and a budget of second RPCs."""

    def __init__(self, extra: float = EXTRA_SHARE) -> None:
        """`extra`: second RPCs a first one, [0, 1]; 0 sends none."""
        self._extra, self._tokens = extra, 0.0
        self._latencies: deque[float] = deque(maxlen=_WINDOW)
        self._seen = 0
        self._late: float | None = None

    @property
    def after(self) -> float | None:
        """Seconds after which an RPC is late; None while too little is known."""
        return self._late

    def record(self, seconds: float) -> None:
        """Note an RPC's latency."""
        self._latencies.append(seconds)
        self._seen += 1
        if self._seen >= _LEAST and (self._late is None or self._seen % _EVERY == 0):
            ordered = sorted(self._latencies)
            self._late = max(_LEAST_SECONDS, ordered[int(_QUANTILE * len(ordered))])

    def earn(self) -> None:
        """Note a first RPC."""
        self._tokens = min(_MOST_SAVED, self._tokens + self._extra)

    def spend(self) -> bool:
        """Say whether a second RPC may be sent now, and count it."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Pace:
    """One replica's running latency, to leave alone the one that is much slower than the best."""

    def __init__(self) -> None:
        self.seconds: float | None = None

    def record(self, seconds: float) -> None:
        """Note an RPC's latency."""
        self.seconds = seconds if self.seconds is None else 0.7 * self.seconds + 0.3 * seconds

    def is_slow(self, best: float) -> bool:
        """Say whether this is slow beside a replica whose running latency is `best`."""
        return self.seconds is not None and self.seconds > _SLOW_FACTOR * best + _SLOW_SECONDS


class Trial:
    """Lets a slow replica have one RPC of many, to see when it is well again."""

    def __init__(self) -> None:
        self._count = 0

    def now(self) -> bool:
        """Count one RPC; says whether a slow replica may have it."""
        self._count += 1
        return self._count % _TRY_SLOW_EVERY == 0
