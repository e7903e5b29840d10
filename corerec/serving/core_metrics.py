"""What cores count themselves, read from them at each scrape."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

_RECALL_SECONDS = 600.0


class CoreCollector:
    """Reads the cores that it was given. One may have `counts` and `recall`, or neither.

    `counts` has `<cache>_hits`, `<cache>_misses`, `<source>_late`, `items_refused` and
    `delta_items`; `recall` a `mean` over `count` queries.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._cores: list[Any] = []
        self._clock = clock
        self._measured: deque[tuple[float, float, int]] = deque()  # when, sum, count

    def watch(self, core: Any) -> None:
        """Read a core from now on."""
        self._cores.append(core)

    def collect(self) -> Iterable[Metric]:
        """Return every family, empty where no core tells of it."""
        counts: dict[str, int] = {}
        for core in self._cores:
            own: Mapping[str, int] = getattr(core, "counts", {})
            for name, count in own.items():
                counts[name] = counts.get(name, 0) + count
        yield from self._counters(counts)
        delta = GaugeMetricFamily(
            "corerec_delta_items",
            "Items that are searched beside the main indexes until they are merged into them.",
        )
        if "delta_items" in counts:
            delta.add_metric([], counts["delta_items"])
        yield delta
        yield self._recall()

    def _counters(self, counts: Mapping[str, int]) -> Iterable[Metric]:
        lookups = CounterMetricFamily(
            "corerec_cache_lookups",
            "Look-ups of kept queries, lists and masks, by outcome.",
            labels=("cache", "outcome"),
        )
        late = CounterMetricFamily(
            "corerec_source_late", "Searches that a source was late for.", labels=("source",)
        )
        refused = CounterMetricFamily(
            "corerec_items_refused", "Changed items that the models could not read."
        )
        for name, count in counts.items():
            kind, _, what = name.rpartition("_")
            if what in ("hits", "misses"):
                lookups.add_metric([kind, "hit" if what == "hits" else "miss"], count)
            elif what == "late":
                late.add_metric([kind], count)
            elif name == "items_refused":
                refused.add_metric([], count)
        return lookups, late, refused

    def _recall(self) -> Metric:
        """Return the mean over the last ten minutes, so that a change shows soon."""
        family = GaugeMetricFamily(
            "retrieval_recall_at_500",
            "Share of the exact best 500 that the index found, over sampled queries of the last "
            "ten minutes.",
        )
        total, count, now = 0.0, 0, self._clock()
        for core in self._cores:
            recall = getattr(core, "recall", None)
            if recall is not None and recall.count and math.isfinite(recall.mean):
                total, count = total + recall.mean * recall.count, count + recall.count
        self._measured.append((now, total, count))
        while len(self._measured) > 1 and now - self._measured[1][0] >= _RECALL_SECONDS:
            self._measured.popleft()
        _, total_then, count_then = self._measured[0]
        if len(self._measured) == 1:
            total_then, count_then = 0.0, 0
        if count > count_then:
            family.add_metric([], (total - total_then) / (count - count_then))
        return family
