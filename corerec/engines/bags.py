"""Draws users with all their events, without order: the bags that `history="mean"` learns from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corerec.engines.sequences import Sequences
from corerec.engines.workers import ALONE, Worker
from corerec.errors import InvalidArgument
from corerec.stages import Int64s

_EMPTY_SHARE = 0.02
"""Share of bags whose query has no item at all, so that a cold user's vector is learned."""


@dataclass(frozen=True)
class Bags:
    """All events of B users, user after user."""

    user: Int64s  # (B,) user row
    row: Int64s  # (E,) the bag of each event, 0..B - 1
    items: Int64s  # (E,)
    shown: NDArray[np.bool_]  # (E,) whether the query sees the event
    weight: float = 1.0  # of the mean over this worker's events, 1 where it has all of them
    everyone: Int64s | None = None  # events of all workers, where there are several


def draw_users(sequences: Sequences, limit: int, rng: np.random.Generator) -> Int64s:
    """Return user rows in random order, of all users with events, or until `limit` events."""
    counts = np.diff(sequences.offsets)
    users = rng.permutation(np.flatnonzero(counts))
    if not len(users):
        raise InvalidArgument("training needs at least one interaction, got 0")
    if len(sequences) > limit:
        total = np.cumsum(counts[users])
        users = users[: max(1, int(np.searchsorted(total, limit, side="right")))]
    return users


def bags(
    sequences: Sequences,
    users: Int64s,
    size: int,
    *,
    dropout: float,
    most: int,
    rng: np.random.Generator,
    worker: Worker = ALONE,
) -> Iterator[Bags]:
    """Yield the bags of `users`, `size` at once.

    An event is shown to the query with probability 1 - dropout, and less often where a user has
    more than `most` events, so that about so many are seen. Of several workers each gets its rows
    of every batch, the batches being the same.
    """
    for start in range(0, len(users), size):
        batch = users[start : start + size]
        own = batch[worker.rows(len(batch))]
        counts = sequences.offsets[own + 1] - sequences.offsets[own]
        events = int((sequences.offsets[batch + 1] - sequences.offsets[batch]).sum())
        everyone = None
        if worker.count > 1:
            ends = zip(sequences.offsets[batch], sequences.offsets[batch + 1], strict=True)
            everyone = np.concatenate([sequences.items[a:b] for a, b in ends]).astype(np.int64)
        row = np.repeat(np.arange(len(own)), counts)
        begin = np.cumsum(counts) - counts
        at = np.arange(len(row)) + np.repeat(sequences.offsets[own] - begin, counts)
        share = np.minimum(1 - dropout, most / np.maximum(counts, 1))
        share[rng.random(len(own)) < _EMPTY_SHARE] = 0.0
        yield Bags(
            user=own,
            row=row,
            items=sequences.items[at].astype(np.int64),
            shown=rng.random(len(row)) < share[row],
            weight=worker.weight(len(row), events),
            everyone=everyone,
        )
