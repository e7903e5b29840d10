"""Slices the events of a data set by time: who learns from what, and what is asked afterwards.

    two-tower ──────────────────────▶ ranker ───▶ validation ──▶ test
    learns from these                 learns here  stops both     is measured on

The ranker's slice comes after the two-tower's so that it sees the scores of a two-tower that does
not know the answers, as in service. Data without times is sliced within each user.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from corerec.data.dataset import Dataset
from corerec.engines.sequences import Sequences
from corerec.errors import ConfigError
from corerec.evaluation.cases import Cases
from corerec.stages import Int64s


class Slice(IntEnum):
    """What an event is for."""

    TOWER = 0
    RANKER = 1
    VALIDATION = 2
    TEST = 3


@dataclass(frozen=True, kw_only=True)
class SliceConfig:
    """Shares of the slices."""

    ranker_share: float = 0.10
    """Share of the events, by time, that the ranker learns from."""
    validation_share: float = 0.03
    """Share of the events that training is stopped by."""
    test_share: float = 0.05
    """Share of the events, the newest, that the release is measured on."""
    ranker_events: int = 5
    """Without times: newest events of each user, before the last two, that the ranker learns from.
    At most a third of a user's events."""

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        for name in ("ranker_share", "validation_share", "test_share"):
            if not 0 < getattr(self, name) < 0.5:
                raise ConfigError(f"{name} must be in (0, 0.5), got {getattr(self, name)}")
        if self.ranker_events < 1:
            raise ConfigError(f"ranker_events must be at least 1, got {self.ranker_events}")


@dataclass(frozen=True, kw_only=True)
class Events:
    """All events of a data set, sorted by user and then by time, with their slice."""

    users: Int64s
    items: Int64s
    times: Int64s
    offsets: Int64s
    """(U + 1,) where each user's events begin."""
    slices: NDArray[np.int8]
    """(E,) values of Slice."""
    order: Int64s
    """(E,) row of the data set's table that each event comes from."""
    item_count: int
    has_times: bool

    @classmethod
    def of(cls, dataset: Dataset, config: SliceConfig) -> Events:
        """Return the sliced events of a data set."""
        users = dataset.interactions["user_row"].to_numpy().astype(np.int64)
        items = dataset.interactions["item_number"].to_numpy().astype(np.int64)
        times = dataset.interactions["time_micros"].to_numpy().astype(np.int64)
        order = np.lexsort((np.arange(len(users)), times, users))
        users, items, times = users[order], items[order], times[order]
        counts = np.bincount(users, minlength=len(dataset.users))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        if dataset.has_times:
            slices = _by_time(times, config)
        else:
            slices = _within_users(users, offsets, config)
        return cls(
            users=users,
            items=items,
            times=times,
            offsets=offsets,
            slices=slices,
            order=order,
            item_count=len(dataset.items),
            has_times=dataset.has_times,
        )

    def sequences(self) -> Sequences:
        """Return what the two-tower learns from."""
        own = self.slices == Slice.TOWER
        return Sequences.of(
            self.users[own],
            self.items[own],
            self.times[own],
            user_count=len(self.offsets) - 1,
            item_count=self.item_count,
        )

    def before(self, stop: Slice) -> NDArray[np.bool_]:
        """Return which events come before a slice."""
        return self.slices < stop

    def cases(self, own: Slice) -> Cases:
        """Return a case for each event of a slice that is the user's first with its item.

        An item that the user has had is never recommended again, so it is no question to ask.
        """
        _, first_time = np.unique(self.users * self.item_count + self.items, return_index=True)
        rows = first_time[self.slices[first_time] == own]
        rows.sort()
        before = rows
        if self.has_times:
            # Of one moment's events none is known before the others.
            changed = (np.diff(self.times, prepend=-1) != 0) | (
                np.diff(self.users, prepend=-1) != 0
            )
            group = np.flatnonzero(changed)
            before = group[np.searchsorted(group, rows, side="right") - 1]
        return Cases(
            user_row=self.users[rows],
            right=self.items[rows],
            now=self.times[rows],
            first=self.offsets[self.users[rows]],
            before=before,
            items=self.items,
            times=self.times,
        )


def _by_time(times: Int64s, config: SliceConfig) -> NDArray[np.int8]:
    shares = (config.ranker_share, config.validation_share, config.test_share)
    begins = 1 - np.cumsum(shares[::-1])[::-1]
    bounds = np.quantile(times, begins, method="higher") if len(times) else np.zeros(3)
    return np.searchsorted(bounds, times, side="right").astype(np.int8)


def _within_users(users: Int64s, offsets: Int64s, config: SliceConfig) -> NDArray[np.int8]:
    counts = np.diff(offsets)
    left = offsets[users + 1] - np.arange(len(users))  # 1 for a user's newest event
    # Two events leave nothing to learn the user from, so such users are learned from only.
    asked = counts[users] >= 3
    ranker = np.minimum(config.ranker_events, counts // 3)[users]
    slices = np.full(len(users), Slice.TOWER, np.int8)
    slices[asked & (left <= 2 + ranker)] = Slice.RANKER
    slices[asked & (left == 2)] = Slice.VALIDATION
    slices[asked & (left == 1)] = Slice.TEST
    return slices
