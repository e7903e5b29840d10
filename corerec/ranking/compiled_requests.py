"""CompiledRequests: from ranking entries to a batch and its pair features on a CPU, compiled.

The numbers of `TorchRequests`, without its dozens of small calls a request. Users are kept.
"""

# B requests, n candidates, F features

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corerec.features import UserIndex
from corerec.live.numbers import LiveRows
from corerec.ranking.features import pair_names
from corerec.ranking.kept_users import SEATS, KeptUsers
from corerec.ranking.laid import LaidArrays
from corerec.ranking.lanes import LANES, TOGETHER
from corerec.ranking.lay_kernel import lay_batch
from corerec.ranking.model import LEARNED_PAIRS, RankingModel
from corerec.ranking.model_arrays import ModelArrays
from corerec.ranking.packed import PackedItems
from corerec.ranking.tables import ItemTables
from corerec.stages import RankEntry

_COLUMNS = (np.int64, np.float32, np.uint8, np.bool_)


class CompiledRequests:
    """Lays entries out for a ranker, one batch at a time, in whatever thread."""

    def __init__(
        self,
        tables: ItemTables,
        live: LiveRows,
        users: UserIndex,
        popularity: NDArray[np.float32],
        end_micros: int,
        model: RankingModel,
        *,
        seats: int = SEATS,
    ) -> None:
        """Take parts of one release; popularity (2, N + 1), of the blank row 0.

        The sides of `model` are laid out, too. At most `seats` users are kept, which is also the
        most of a batch.
        """
        self._model = ModelArrays.of(model)
        self._tables, self._end = tables, end_micros
        self._items = PackedItems(tables, popularity)
        # Where `user_dense` says of the moment: after the history's length and the attributes.
        self._moment = self._model.dense.start + 1 + len(tables.schema.user_numeric)
        self._users = KeptUsers(tables, self._items, live, users, self._model, seats)
        self._space = Space(tables, self._model)

    @property
    def counts(self) -> Mapping[str, int]:
        """Look-ups of kept users, by outcome."""
        return {
            "ranking_users_hits": self._users.hits,
            "ranking_users_misses": self._users.misses,
        }

    def refresh(self, rows: NDArray[np.int64]) -> None:
        """Read rows (m,) of the tables anew, after they changed."""
        self._items.refresh(rows)

    def lay(self, entries: Sequence[RankEntry]) -> LaidArrays:
        """Return a batch of entries of at least a candidate; see `TorchRequests.lay`.

        It is of arrays that the next call writes to.
        """
        space, users = self._space, self._users
        space.take(entries)
        seats = users.find([entry.user for entry in entries])
        now = np.array([entry.user.now or self._end for entry in entries], np.int64)
        side = np.empty((len(entries), self._model.width), np.float32)
        lay_batch(
            seats, space.counts, space.candidates, now, len(self._tables), self._moment,
            users.fixed, space.room, side,
        )  # fmt: skip
        rows, scores, _, known = space.candidates
        pairs, compared = space.room[2], space.room[4]
        return LaidArrays(
            users=users, seats=seats, dense=self._model.dense, counts=space.counts, now=now,
            rows=rows, scores=scores, known=known, pairs=pairs, side=side, compared=compared,
        )  # fmt: skip


class Space:
    """The arrays of one batch, taken from memory that the next batch uses again."""

    candidates: tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.uint8], NDArray[np.bool_]]
    """(B, n) numbers, which become rows; retrieval's scores; sources; whether the score is known"""
    counts: NDArray[np.int64]
    """(B,) candidates of each request"""
    room: tuple[Any, ...]
    """See `lay_batch`."""

    def __init__(self, tables: ItemTables, model: ModelArrays) -> None:
        self._groups = model.groups
        self._features = len(pair_names(tables.schema))
        self._sums = np.zeros((tables.value_count, 2), np.float32)
        self._size = self._width = 0
        self._shape = 0, 0

    def take(self, entries: Sequence[RankEntry]) -> None:
        """Copy the candidates of entries, as they come."""
        counts = [len(entry.candidates.numbers) for entry in entries]
        self._have(len(counts), max(counts))
        self.counts = np.array(counts, np.int64)
        rows, scores, sources, _ = self.candidates
        for row, count in enumerate(counts):
            own = entries[row].candidates
            rows[row, :count] = own.numbers
            scores[row, :count] = own.scores
            sources[row, :count] = own.sources

    def _have(self, cases: int, width: int) -> None:
        """Have room for a batch of so many cases by so many candidates."""
        if (shape := (cases, width)) == self._shape:
            return
        self._shape, size, wide = shape, cases * width, self._features + LEARNED_PAIRS
        if size > self._size:
            self._size = size
            self._columns = [np.empty(size, kind) for kind in _COLUMNS]
            self._pairs = np.empty(size * self._features, np.float32)
            self._sides = np.empty(size * wide, np.float32)
        if width > self._width:
            self._width = width
            whole = -(-width // TOGETHER) * TOGETHER
            slots = np.zeros(1 << (4 * width - 1).bit_length(), np.int32)
            self._scratch = slots, self._sums, np.zeros((whole, LANES), np.float32)
            self._likeness = np.zeros((whole, self._groups * LANES), np.float32)
        columns: Any = tuple(column[:size].reshape(shape) for column in self._columns)
        self.candidates = columns
        self.room = (
            self._scratch[0],
            self._scratch,
            self._pairs[: size * self._features].reshape(self._features, *shape),
            self._likeness,
            self._sides[: size * wide].reshape(wide, *shape),
        )
