"""Histogram: Prometheus histograms that cost little to fill in, for what is measured on each call.

prometheus_client's own takes locks and walks its buckets: 3 us a value, and a request has twenty.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString


class Child:
    """One time series: how often each range of values came, and their sum. One thread fills it."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """How often each range came; the last is above the highest bound."""
        self.total = 0.0
        """Sum of all values."""

    def observe(self, value: float) -> None:
        """Count a value; one on a bound belongs below it."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class Histogram:
    """A family of series by labels; without labels it is its only series itself."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        """Register; `buckets` are upper bounds, ascending, without infinity."""
        self._name, self._documentation = name, documentation
        self._labelnames, self._bounds = tuple(labelnames), tuple(map(float, buckets))
        self._children: dict[tuple[str, ...], Child] = {}
        if not self._labelnames:
            self._children[()] = Child(self._bounds)
        registry.register(self)

    def labels(self, *values: str) -> Child:
        """Return the series with these labels, made at its first use."""
        child = self._children.get(values)
        if child is None:
            if len(values) != len(self._labelnames):
                raise ValueError(f"{self._name} has the labels {self._labelnames}, got {values}")
            child = self._children[values] = Child(self._bounds)
        return child

    def observe(self, value: float) -> None:
        """Count a value of a histogram without labels."""
        self._children[()].observe(value)

    def collect(self) -> Iterable[Metric]:
        """Return the family as it is now, for a scrape from another thread."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labelnames)
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        for values, child in list(self._children.items()):
            buckets, below = [], 0
            for name, count in zip(names, list(child.counts), strict=True):
                below += count
                buckets.append((name, float(below)))
            family.add_metric(values, buckets, child.total)
        yield family
