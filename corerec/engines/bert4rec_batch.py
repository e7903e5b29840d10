"""Cuts sequences into BERT4Rec's batches: which items are masked, asked for, and seen by which.

Two kinds of batch share one form. A cloze batch masks events anywhere. A last-position batch asks
for a window's newest events one by one, each by a mask token that sees only what came before it.
"""

# B windows, W of an epoch, X events, S asked events, L positions, A asked positions, M targets

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corerec.engines.bert4rec_net import GAPS, Tokens
from corerec.engines.sequences import Sequences
from corerec.stages import Int64s

Bools = NDArray[np.bool_]

CLOCK = 10**14
"""Times below it (microseconds, March 1973) are places in an order, not moments."""


@dataclass(frozen=True)
class Events:
    """Sequences with what the network reads besides items; 18 bytes an event at most."""

    sequences: Sequences
    hours: NDArray[np.uint8] | None
    """(E,) 1..24."""
    gaps: NDArray[np.uint8] | None
    """(E,) 0 for a user's first event."""

    @classmethod
    def of(cls, sequences: Sequences, has_times: bool) -> Events:
        """Return the events, with hours and gaps where the model reads them."""
        if not has_times:
            return cls(sequences, None, None)
        gaps = gap_of(np.diff(sequences.times, prepend=0))
        starts = sequences.offsets[:-1]
        gaps[starts[starts < len(gaps)]] = 0
        return cls(sequences, hour_of(sequences.times), gaps)

    @staticmethod
    def known(column: NDArray[np.uint8] | None, at: Int64s, timed: Bools) -> Int64s | None:
        """Return hours or gaps of events (B, L); 0, unknown, in rows that are not `timed` (B,)."""
        return None if column is None else column[at].astype(np.int64) * timed[:, None]


@dataclass(frozen=True)
class Windows:
    """Slices of sequences, each as indices into Sequences.items."""

    start: Int64s  # (W,) the oldest event that is looked at
    first: Int64s  # (W,) events from here on are this window's own: every event is in one
    end: Int64s  # (W,) one beyond the newest

    def __len__(self) -> int:
        return len(self.start)

    def take(self, rows: Int64s) -> Windows:
        """Return these windows, in this order."""
        return Windows(self.start[rows], self.first[rows], self.end[rows])


@dataclass(frozen=True)
class Batch:
    """What the network is given and asked, as arrays or tensors of the same shapes."""

    items: Any  # (B, L)
    places: Any  # (B, L)
    hours: Any  # (B, L) or None
    gaps: Any  # (B, L) or None
    allowed: Any  # (B, 1, L or 1, L) bool
    asked: Any  # (B, A) positions
    kept: Any  # (M,) indices into the flattened `asked`; the rest is padding
    targets: Any  # (M,) item numbers

    def to(self, device: torch.device) -> Batch:
        """Return the batch as tensors, copied without waiting where the device allows it."""
        return Batch(*(_move(getattr(self, name), device) for name in self.__dataclass_fields__))

    @property
    def tokens(self) -> Tokens:
        """What the network reads."""
        return Tokens(self.items, self.places, self.hours, self.gaps)


def hour_of(times: Int64s) -> NDArray[np.uint8]:
    """Return 1..24, the hour of the day in UTC of times in microseconds."""
    return (times // 3_600_000_000 % 24 + 1).astype(np.uint8)


def gap_of(micros: Int64s) -> NDArray[np.uint8]:
    """Return 1 + floor(log2(1 + seconds)) of each gap, at most GAPS - 1."""
    seconds = np.maximum(micros, 0) // 1_000_000
    return np.minimum(1 + np.log2(1.0 + seconds).astype(np.int64), GAPS - 1).astype(np.uint8)


def cut(sequences: Sequences, own: int, length: int, rng: np.random.Generator) -> Windows:
    """Return windows of at most `length` events whose last, at most `own`, cover all events once.

    Long sequences are cut at places that are drawn anew each time.
    """
    counts = np.diff(sequences.offsets)
    pieces = -(-counts // own)
    shift = rng.integers(0, pieces * own - counts + 1)
    user = np.repeat(np.arange(len(counts)), pieces)
    piece = np.arange(len(user)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    first = np.maximum(piece * own - shift[user], 0)
    end = np.minimum((piece + 1) * own - shift[user], counts[user])
    kept = end > first
    base, first, end = sequences.offsets[user[kept]], first[kept], end[kept]
    return Windows(base + np.maximum(end - length, 0), base + first, base + end)


def part(windows: Windows, share: float, rng: np.random.Generator) -> Windows:
    """Return a random share of the windows, at least one unless the share is 0."""
    return windows.take(rng.permutation(len(windows))[: math.ceil(len(windows) * share)])


def shuffled(windows: Windows, size: int, rng: np.random.Generator) -> Iterator[Windows]:
    """Yield all windows in groups of `size`, those of like length together, in random order."""
    order = rng.permutation(len(windows))
    # Sorting inside large random groups keeps padding low and batches random.
    group = size * 32
    work = 2 * windows.end - windows.start - windows.first
    parts = [order[i : i + group] for i in range(0, len(order), group)]
    order = np.concatenate([p[np.argsort(work[p], kind="stable")] for p in parts])
    for begin in rng.permutation(np.arange(0, len(order), size)).tolist():
        yield windows.take(order[begin : begin + size])


def cloze(
    events: Events, windows: Windows, share: float, max_len: int, rng: np.random.Generator
) -> Batch:
    """Return a batch with `share` of each window's events masked, and always at least one.

    In one of four windows the newest is among them. Everything sees everything.
    Source: Sun et al., CIKM 2019, sec. 3.6.
    """
    length = windows.end - windows.start
    timed = _timed(len(windows), rng)
    place = np.arange(int(length.max()))
    valid = place < length[:, None]  # (B, L)
    at = windows.start[:, None] + np.where(valid, place, 0)
    key = rng.random(valid.shape, np.float32)
    newest = (place == length[:, None] - 1) & (rng.random((len(length), 1)) < 0.25)
    key = np.where(valid, key - newest, 2.0)
    count = np.maximum(np.rint(length * share).astype(np.int64), 1)
    asked = np.argpartition(key, int(count.max()) - 1, axis=1)[:, : int(count.max())]
    asked = np.take_along_axis(asked, np.take_along_axis(key, asked, 1).argsort(1), 1)  # (B, A)
    chosen = np.arange(asked.shape[1]) < count[:, None]
    targets = np.take_along_axis(events.sequences.items[at], asked, 1)
    items = np.where(valid, events.sequences.items[at], events.sequences.item_count)
    rows = np.arange(len(items))[:, None]
    items[rows, asked] = np.where(chosen, events.sequences.item_count, items[rows, asked])
    return Batch(
        items=items,
        places=np.where(valid, place + (max_len - length)[:, None], 0),
        hours=events.known(events.hours, at, timed),
        gaps=events.known(events.gaps, at, timed),
        allowed=valid[:, None, None, :],
        asked=asked,
        kept=np.flatnonzero(chosen),
        targets=targets[chosen],
    )


def last(
    events: Events,
    windows: Windows,
    max_len: int,
    rng: np.random.Generator,
    both_ways: bool = True,
) -> Batch:
    """Return a batch that asks for each window's own events, each as the last position.

    A mask token stands beside each own event and sees the events before it and itself. Events
    before the first own one see each other (only earlier ones without `both_ways`); a later one
    sees only what came before it.
    """
    timed = _timed(len(windows), rng)
    start, first, end = (x[:, None] for x in (windows.start, windows.first, windows.end))
    events_at = start + np.arange(max(1, int((end - 1 - start).max())))  # (B, X)
    asked_at = first + np.arange(int((end - first).max()))  # (B, S)
    real, valid = events_at < end - 1, asked_at < end
    at = np.concatenate([events_at, asked_at], 1)  # (B, L)
    inside = np.minimum(at, end - 1)
    count = events_at.shape[1]
    items = np.full(at.shape, events.sequences.item_count)
    items[:, :count] = np.where(real, events.sequences.items[inside[:, :count]], items[:, :count])
    return Batch(
        items=items,
        places=inside - end + max_len,
        hours=events.known(events.hours, inside, timed),
        gaps=events.known(events.gaps, inside, timed),
        allowed=_sight(events_at, asked_at, real, first if both_ways else start)[:, None],
        asked=np.tile(np.arange(count, at.shape[1]), (len(at), 1)),
        kept=np.flatnonzero(valid),
        targets=events.sequences.items[asked_at[valid]],
    )


def _timed(count: int, rng: np.random.Generator) -> Bools:
    """Return which of so many windows keep their times: without a tenth, absent ones work too."""
    return rng.random(count) >= 0.1


def _sight(events_at: Int64s, asked_at: Int64s, real: Bools, first: Int64s) -> Bools:
    """Return (B, L, L): which position sees which; all see themselves."""
    count, length = events_at.shape[1], events_at.shape[1] + asked_at.shape[1]
    allowed = np.zeros((len(first), length, length), np.bool_)
    column = events_at[:, None]  # (B, 1, X)
    before = (column <= events_at[:, :, None]) | (column < first[:, :, None])
    allowed[:, :count, :count] = before & real[:, None]
    allowed[:, count:, :count] = (column < asked_at[:, :, None]) & real[:, None]
    allowed[:, np.arange(length), np.arange(length)] = True
    return allowed


def _move(array: Any, device: torch.device) -> Tensor | None:
    if array is None:
        return None
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
