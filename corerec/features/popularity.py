"""How often an item had been interacted with before a moment; exact: training sees no future.

PopularityTimeline answers for any moment (training); PopularitySnapshot is the answer at the end
of the data, in the release (serving).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from corerec.errors import InvalidArgument
from corerec.features.context import DAY_MICROS

RECENT_MICROS = 7 * DAY_MICROS

Int64s = NDArray[np.int64]
Float32s = NDArray[np.float32]


class PopularityTimeline:
    """Counts of interactions strictly before a moment, in total and over the last seven days.

    Without times every count is over all interactions given, whatever moment is asked for: then
    the caller subtracts a training positive's own interaction, see `counts`.
    """

    def __init__(self, item_numbers: Int64s, times: Int64s | None, item_count: int) -> None:
        """Build from train interactions only.

        Shapes: item_numbers, times (E,), any order; times in microseconds, None without times.

        Raises:
            InvalidArgument: when lengths differ or an item number is not in [0, item_count).
        """
        items = np.asarray(item_numbers, np.int64)
        if len(items) and (items.min() < 0 or items.max() >= item_count):
            raise InvalidArgument(
                f"item numbers must be in [0, {item_count}), got {items.min()}..{items.max()}"
            )
        if times is not None and len(times) != len(items):
            raise InvalidArgument(f"{len(items)} item numbers need as many times: {len(times)}")
        self.item_count = item_count
        self.has_times = times is not None
        self._total = np.bincount(items, minlength=item_count)
        self._moments = np.unique(np.asarray(times if times is not None else [], np.int64))
        # An event's key is its item and the rank of its time, which sorts like (item, time) and
        # fits 64 bits where item and microseconds together would not.
        self._base = len(self._moments) + 1
        if times is not None:
            ranks = np.searchsorted(self._moments, times)
            self._keys = np.sort(items * self._base + ranks)
        self._first = np.cumsum(self._total) - self._total

    def counts(
        self, items: Int64s, times: Int64s | None, own: NDArray[np.bool_] | None = None
    ) -> tuple[Float32s, Float32s]:
        """Return the counts of `items` strictly before `times`: in total, and in the last 7 days.

        Shapes: items any shape, times and own broadcast to it. `own` marks items whose count holds
        the very interaction that is to be predicted; it is used only without times, where it takes
        that one interaction off. With times, "strictly before" already leaves it out.
        """
        items = np.asarray(items, np.int64)
        if not self.has_times:
            total = self._total[items].astype(np.float32)
            if own is not None:
                total = np.maximum(total - own, 0).astype(np.float32)
            return total, np.zeros(items.shape, np.float32)
        if times is None:
            raise InvalidArgument("times must be given: this timeline has times")
        moments = np.asarray(times, np.int64)
        before = self._before(items, moments)
        since = self._before(items, moments - RECENT_MICROS)
        return before.astype(np.float32), (before - since).astype(np.float32)

    def _before(self, items: Int64s, moments: Int64s) -> Int64s:
        ranks = np.searchsorted(self._moments, moments)  # moments of events strictly before
        found = np.searchsorted(self._keys, items * self._base + ranks)
        return (found - self._first[items]).astype(np.int64)

    def snapshot(self, end_micros: int) -> PopularitySnapshot:
        """Return the counts of every item just after `end_micros`, that moment included."""
        items = np.arange(self.item_count)
        total, recent = self.counts(items, np.full(self.item_count, end_micros + 1, np.int64))
        return PopularitySnapshot(total=total, recent=recent)


@dataclass(frozen=True, kw_only=True)
class PopularitySnapshot:
    """The counts of every item where a release's data ends."""

    total: Float32s
    """(N,) interactions."""
    recent: Float32s
    """(N,) interactions in the last seven days of the data; zeros without times."""

    def save(self, path: Path) -> None:
        """Write the counts as safetensors."""
        save_file({"total": self.total, "recent": self.recent}, path)

    @classmethod
    def load(cls, path: Path) -> PopularitySnapshot:
        """Return the counts in a file. Raises InvalidArgument when an array is missing."""
        arrays = load_file(path)
        if missing := {"total", "recent"} - set(arrays):
            raise InvalidArgument(f"{path.name}: arrays {sorted(missing)} are missing")
        return cls(total=arrays["total"], recent=arrays["recent"])
