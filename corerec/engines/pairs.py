"""Interactions as two compressed matrices, users by items and items by users: what MF learns from.

12 to 20 bytes an interaction, however long the data; no Python object for any of them.
"""

# E events, P distinct pairs of user and item, U users, N items

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from corerec.engines.sequences import Sequences
from corerec.errors import InvalidArgument
from corerec.stages import Float32s, Int64s

Int32s = NDArray[np.int32]
Repeats = Literal["once", "sum"]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """One side's interactions, row after row, columns ascending."""

    offsets: Int64s
    """(R + 1,) those of row r are offsets[r]..offsets[r + 1]."""
    columns: Int32s
    """(P,)"""
    weights: Float32s
    """(P,) confidences; (0,) where all are 1, which is not stored."""

    @property
    def counts(self) -> Int64s:
        """(R,) interactions of each row."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The distinct (user, item) pairs, seen from both sides."""

    users: Rows
    """(U rows)"""
    items: Rows
    """(N rows)"""


def pairs_of(events: Sequences, weights: Float32s | None, repeats: Repeats) -> Pairs:
    """Return the pairs of all events; a pair's repeats count once, or their weights are added.

    With "once" and weights the greatest weight of a pair stays. Shapes: weights (E,), in the order
    of `events.items`, 1 where absent.

    Raises:
        InvalidArgument: without events, with more than 2^31 items or users, or for weights that
            are not finite numbers above 0, one an event.
    """
    if not len(events):
        raise InvalidArgument("fit needs at least one event, got 0")
    if max(events.item_count, events.user_count) >= 2**31:
        raise InvalidArgument(
            "users and items must be fewer than 2147483648, "
            f"got {events.user_count} and {events.item_count}"
        )
    values = _checked(weights, len(events))
    events_by_user = Rows(
        offsets=events.offsets, columns=events.items.astype(np.int32), weights=values
    )
    # Turned twice: each turn sorts by the other side, and costs one pass and no sort.
    by_item = _turned(events_by_user, events.item_count)
    by_user = _merged(_turned(by_item, events.user_count), repeats)
    del by_item, events_by_user
    return Pairs(users=by_user, items=_turned(by_user, events.item_count))


def rows_of(histories: Sequence[Int64s], width: int, repeats: Repeats) -> Rows:
    """Return histories of item numbers as rows, each weight 1; unknown numbers are skipped.

    The order of a history plays no part. Shapes: histories, for each row (n,) numbers.
    """
    lengths = [len(items) for items in histories]
    row = np.repeat(np.arange(len(histories)), lengths)
    items = np.concatenate([*histories, np.empty(0, np.int64)]).astype(np.int64)
    known = (items >= 0) & (items < width)
    # Integer keys: a stable order, whatever the batch.
    pairs, counts = np.unique(row[known] * width + items[known], return_counts=True)
    offsets = np.searchsorted(pairs, np.arange(len(histories) + 1) * width).astype(np.int64)
    repeated = repeats == "sum" and len(pairs) < int(known.sum())
    return Rows(
        offsets=offsets,
        columns=(pairs % width).astype(np.int32),
        weights=counts.astype(np.float32) if repeated else np.empty(0, np.float32),
    )


def _checked(weights: Float32s | None, events: int) -> Float32s:
    if weights is None:
        return np.empty(0, np.float32)
    given = np.asarray(weights)
    if given.shape != (events,):
        raise InvalidArgument(f"weights must be a column of {events} values, got {given.shape}")
    wrong = ~(np.isfinite(given) & (given > 0))
    if wrong.any():
        raise InvalidArgument(
            f"weights must be finite and above 0, got {given[wrong][0]} at {int(wrong.argmax())}"
        )
    return given.astype(np.float32)


def _turned(rows: Rows, width: int) -> Rows:
    """Return the transposed matrix of `width` rows; equal pairs stay in their order."""
    # Compiled code is imported by those who train only: serving has no use for it.
    from corerec.engines.ials_kernel import transpose

    offsets, columns, weights = transpose(rows.offsets, rows.columns, rows.weights, width)
    return Rows(offsets=offsets, columns=columns, weights=weights)


def _merged(rows: Rows, repeats: Repeats) -> Rows:
    """Return rows, columns ascending, with equal pairs made one."""
    first = np.ones(len(rows.columns), bool)
    first[1:] = rows.columns[1:] != rows.columns[:-1]
    starts = rows.offsets[:-1]
    first[starts[starts < len(first)]] = True
    places = np.flatnonzero(first)
    weights = rows.weights
    if repeats == "sum" and (len(places) < len(first) or len(weights)):
        known = weights if len(weights) else np.ones(len(first), np.float32)
        weights = np.add.reduceat(known, places, dtype=np.float32)
    elif len(weights):
        weights = np.maximum.reduceat(weights, places)
    offsets = np.searchsorted(places, rows.offsets)
    return Rows(offsets=offsets.astype(np.int64), columns=rows.columns[places], weights=weights)
