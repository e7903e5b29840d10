"""What retrieval's lists are made of while a funnel is trained: tables as a slice begins."""

# N items, E events

from __future__ import annotations

import numpy as np
import polars as pl

from corerec.pipelines.parts import Parts
from corerec.pipelines.slices import Slice
from corerec.ranking.transitions import TransitionTable
from corerec.stages import Int64s


class TrainingTables:
    """What lists are made of, as it stood when a slice began."""

    def __init__(self, parts: Parts, stop: Slice) -> None:
        self._parts, self._events = parts, parts.events
        self._known = parts.events.before(stop)

    @property
    def items(self) -> Int64s:
        """(E,) item numbers of the events before the slice."""
        return self._events.items[self._known]

    @property
    def times(self) -> Int64s:
        """(E,) their times, microseconds since 1970; zeros where the data has none."""
        times = self._events.times[self._known]
        return times if self._events.has_times else np.zeros_like(times)

    @property
    def transitions(self) -> TransitionTable:
        """Which items followed which before the slice."""
        users = self._events.users[self._known]
        return TransitionTable.fit(users, self.items, self._events.item_count)

    @property
    def born_micros(self) -> Int64s:
        """(N,) when each item came to be, microseconds since 1970; -1 is unknown."""
        items = self._parts.dataset.items
        if "born_micros" not in items.columns:
            return np.full(len(items), -1, np.int64)
        return items["born_micros"].cast(pl.Int64).fill_null(-1).to_numpy()

    @property
    def end(self) -> int:
        """When the last event before the slice was, microseconds since 1970."""
        times = self.times
        return int(times.max()) if len(times) else 0
