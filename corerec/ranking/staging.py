"""Staging: what a batch of requests brings to a device, in one block of memory and so in one copy.

Here is what only the host can do: read entries, look users up, cut histories. Whatever is done
with candidates one by one is `device_batch.py`'s, on the device.
"""

# B requests, n candidates, L history, Cu, Fd columns of users

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corerec.features import FeatureSchema, UserFeatures, UserIndex
from corerec.live.numbers import LiveRows
from corerec.ranking.features import newest_history, user_dense, user_dense_width
from corerec.ranking.tables import ItemTables
from corerec.stages import RankEntry

ALIGNED = 256
"""Bytes at whose multiples a device's memory begins, and every column in a block."""


class Columns(NamedTuple):
    """The columns of B requests by n candidates, as arrays or as tensors over a block."""

    counts: Any
    """(B,) int64 candidates of each request; what is behind them means nothing"""
    numbers: Any
    """(B, n) int64 item numbers"""
    scores: Any
    """(B, n) float32 of retrieval"""
    sources: Any
    """(B, n) uint8 values of Source"""
    history: Any
    """(B, L) int64 rows of the tables, newest last, -1 pads the left"""
    now: Any
    """(B,) int64 microseconds"""
    user_row: Any
    """(B,) int64"""
    user_categorical: Any
    """(B, Cu) int64"""
    user_dense: Any
    """(B, Fd) float32 as of `user_dense`"""


class Block:
    """Where the columns lie in a block of bytes."""

    def __init__(self, schema: FeatureSchema, cases: int, count: int) -> None:
        """Lay a batch of so many requests by so many candidates out."""
        kinds: dict[str, tuple[Any, tuple[int, ...]]] = {
            "counts": (np.int64, (cases,)),
            "numbers": (np.int64, (cases, count)),
            "scores": (np.float32, (cases, count)),
            "sources": (np.uint8, (cases, count)),
            "history": (np.int64, (cases, schema.history_length)),
            "now": (np.int64, (cases,)),
            "user_row": (np.int64, (cases,)),
            "user_categorical": (np.int64, (cases, len(schema.user_categorical))),
            "user_dense": (np.float32, (cases, user_dense_width(schema))),
        }
        self._parts: dict[str, tuple[slice, Any, tuple[int, ...]]] = {}
        end = 0
        for name, (kind, shape) in kinds.items():
            size = math.prod(shape) * np.dtype(kind).itemsize
            self._parts[name] = slice(end, end + size), kind, shape
            end += -(-size // ALIGNED) * ALIGNED
        self.size = end
        """Bytes of the block"""

    def arrays(self, memory: NDArray[np.uint8]) -> Columns:
        """Return the columns over the memory of a block."""
        return Columns(
            **{n: memory[at].view(kind).reshape(shape) for n, (at, kind, shape) in self._all()}
        )

    def tensors(self, memory: Tensor) -> Columns:
        """Return the columns over the memory of a block, on its device."""
        return Columns(
            **{
                name: memory[at].view(getattr(torch, np.dtype(kind).name)).view(shape)
                for name, (at, kind, shape) in self._all()
            }
        )

    def _all(self) -> Any:
        return self._parts.items()


class Asked(NamedTuple):
    """The users of B requests, each at its moment."""

    history: NDArray[np.int64]
    """(B, L) rows of the tables, newest last, -1 pads the left"""
    now: NDArray[np.int64]
    """(B,) microseconds"""
    users: UserFeatures
    dense: NDArray[np.float32]
    """(B, Fd) as of `user_dense`"""


class People:
    """Reads the users of entries."""

    def __init__(
        self, tables: ItemTables, live: LiveRows, users: UserIndex, end_micros: int
    ) -> None:
        """Take parts of one release; requests without a moment are for its end."""
        self._tables, self._live, self._users, self._end = tables, live, users, end_micros

    def read(self, entries: Sequence[RankEntry]) -> Asked:
        """Return what a ranker needs of the users, but for what candidates are compared with."""
        schema = self._tables.schema
        history, times = newest_history(
            schema,
            [self._live.history(entry.user.items) for entry in entries],
            [entry.user.times for entry in entries],
            self._tables.room,
        )
        now = np.array([entry.user.now or self._end for entry in entries], np.int64)
        users = schema.encode_users(
            [entry.user.user_id for entry in entries],
            [entry.user.attributes for entry in entries],
            self._users,
        )
        dense = user_dense(schema, users, history, times, now)
        return Asked(history, now, users, dense)


class Staging:
    """Writes entries into columns."""

    def __init__(
        self, tables: ItemTables, live: LiveRows, users: UserIndex, end_micros: int
    ) -> None:
        """Take parts of one release; requests without a moment are for its end."""
        self._people = People(tables, live, users, end_micros)

    def fill(self, entries: Sequence[RankEntry], into: Columns) -> None:
        """Write at most B entries of at most n candidates; the other rows have none."""
        used = len(entries)
        counts, numbers, scores, sources = into[:4]
        for row, entry in enumerate(entries):
            own, count = entry.candidates, len(entry.candidates.numbers)
            counts[row] = count
            numbers[row, :count], scores[row, :count] = own.numbers, own.scores
            sources[row, :count] = own.sources
        asked = self._people.read(entries)
        into.history[:used], into.now[:used] = asked.history, asked.now
        into.user_row[:used] = asked.users.row
        into.user_categorical[:used] = asked.users.categorical
        into.user_dense[:used] = asked.dense
        counts[used:] = 0
        # Rows that an earlier batch left would do, but hold a user's data for longer than needed.
        for column in into[4:]:
            column[used:] = 0
