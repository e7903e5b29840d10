"""CompiledRequests: from ranking entries to a batch and its pair features on a CPU, compiled.

The numbers of `TorchRequests`, without its dozens of small calls a request. Users are kept.
"""

# B requests, n candidates, F features

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corerec.features import UserIndex
from corerec.live.numbers import LiveRows
from corerec.ranking.best import best
from corerec.ranking.check import check_candidates
from corerec.ranking.features import MAX_AGE_DAYS, RankingBatch, pair_names
from corerec.ranking.kept_users import SEATS, KeptUsers
from corerec.ranking.lanes import LANES, TOGETHER
from corerec.ranking.model import LEARNED_PAIRS, RankingModel
from corerec.ranking.model_arrays import ModelArrays
from corerec.ranking.packed import PackedItems
from corerec.ranking.pair_kernel import fill_pairs
from corerec.ranking.request_kernel import fault, lay_candidates, lay_moments
from corerec.ranking.side_kernel import compare
from corerec.ranking.tables import ItemTables
from corerec.stages import MAX_CANDIDATES, Candidates, RankEntry

_NO_SLOTS = np.zeros(0, np.int32)
_COLUMNS = (np.int64, np.float32, np.uint8, np.bool_)
_NOT_COUNTED = torch.zeros(2, 0, 0)
_AGE_SCALE = np.float32(1 / math.log1p(MAX_AGE_DAYS))


class CompiledRequests:
    """Lays entries out for a ranker; in any thread, each with arrays of its own."""

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

        The sides of `model` are laid out, too. Each thread keeps at most `seats` users, which is
        also the most of a batch.
        """
        self._seats, self._model = seats, ModelArrays.of(model)
        self._tables, self._live, self._index, self._end = tables, live, users, end_micros
        self._items = PackedItems(tables, popularity)
        self._local = threading.local()
        self._kept: list[KeptUsers] = []

    @property
    def counts(self) -> Mapping[str, int]:
        """Look-ups of kept users, by outcome, of all threads."""
        return {
            "ranking_users_hits": sum(kept.hits for kept in self._kept),
            "ranking_users_misses": sum(kept.misses for kept in self._kept),
        }

    def best(self, scores: Tensor, counts: NDArray[np.int64], k: int) -> tuple[Tensor, Tensor]:
        """Return places and scores of the best k; see `Requests.best`."""
        places, values = best(np.ascontiguousarray(scores.numpy()), counts, k)
        return torch.from_numpy(places), torch.from_numpy(values)

    def check(self, candidates: Candidates) -> None:
        """Raise InvalidArgument as `check_candidates` does."""
        numbers, scores = candidates.numbers, candidates.scores
        count = len(numbers)
        if not count == len(scores) == len(candidates.sources) or count > MAX_CANDIDATES:
            check_candidates(candidates)  # which raises
        # Copies, since arrays that may not be written to would be compiled for once more.
        own = np.array(numbers, np.int64), np.array(scores, np.float32)
        if fault(*own, self._slots(count)):
            check_candidates(candidates)

    def _slots(self, count: int) -> NDArray[np.int32]:
        """Return scratch of this thread, a power of two that is at least twice `count`."""
        size = 1 << max(2 * count - 1, 1).bit_length()
        slots: NDArray[np.int32] = getattr(self._local, "slots", _NO_SLOTS)
        if len(slots) < size:
            slots = self._local.slots = np.zeros(size, np.int32)
        return slots[:size]

    def refresh(self, rows: NDArray[np.int64]) -> None:
        """Read rows (m,) of the tables anew, after they changed."""
        self._items.refresh(rows)

    def lay(self, entries: Sequence[RankEntry]) -> tuple[RankingBatch, Tensor]:
        """Return a batch of entries and its pair features; see `Requests.lay`.

        Both are of arrays that the thread's next call writes to.
        """
        space, users = self._own()
        space.take(entries, self._live)
        seats = users.find([entry.user for entry in entries])
        now = np.array([entry.user.now or self._end for entry in entries], np.int64)
        schema, dense = self._tables.schema, self._model.dense
        side = users.side[seats]
        if schema.has_times:
            moment = dense.start + users.numbers.shape[1]
            lay_moments(now, users.newest[seats], users.laid[-1][seats, 0], moment, side)
        fill_pairs(
            seats, space.counts, space.rows, space.scores, space.known, now, len(self._tables),
            self._items.of(self._tables), users.laid, space.scratch, space.out,
        )  # fmt: skip
        if schema.has_times:
            age = space.out[4]
            np.log1p(age, out=age)
            age *= _AGE_SCALE
        compare(
            seats, space.counts, space.rows, len(self._tables), space.out, self._model.compared,
            users.lanes, space.likeness, space.compared,
        )  # fmt: skip
        batch = RankingBatch(
            user_row=torch.from_numpy(users.row[seats]),
            user_categorical=torch.from_numpy(users.categorical[seats]),
            user_dense=torch.from_numpy(side[:, dense]),
            history=torch.from_numpy(users.history[seats]),
            now=torch.from_numpy(now),
            candidates=torch.from_numpy(space.rows),
            scores=torch.from_numpy(space.scores),
            retrieved=torch.from_numpy(space.known),
            popularity=_NOT_COUNTED,
            user_side=torch.from_numpy(side),
            compared=torch.from_numpy(space.compared),
        )
        return batch, torch.from_numpy(space.out)

    def _own(self) -> tuple[Space, KeptUsers]:
        """Return this thread's arrays and users."""
        own: tuple[Space, KeptUsers] | None = getattr(self._local, "own", None)
        if own is None:
            users = KeptUsers(
                self._tables, self._items, self._live, self._index, self._model, self._seats
            )
            own = self._local.own = Space(self._tables, self._model), users
            self._kept.append(users)
        return own


class Space:
    """The arrays of one batch, taken from memory that the next batch uses again."""

    rows: NDArray[np.int64]
    """(B, n) rows of the tables; the blank one pads"""
    scores: NDArray[np.float32]
    """(B, n) of retrieval"""
    known: NDArray[np.bool_]
    """(B, n) whether the score says something"""
    counts: NDArray[np.int64]
    """(B,) candidates of each request"""
    out: NDArray[np.float32]
    """(F, B, n) pair features"""
    compared: NDArray[np.float32]
    """(F + 3, B, n) as of `RankingModel.pair_side`"""
    likeness: NDArray[np.float32]
    """See `compare`."""
    scratch: tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]
    """See `fill_pairs`."""

    def __init__(self, tables: ItemTables, model: ModelArrays) -> None:
        self._blank, self._groups = len(tables), model.groups
        self._features = len(pair_names(tables.schema))
        self._sums = np.zeros((tables.value_count, 2), np.float32)
        self._size = 0
        self._pairs = self._sides = np.zeros(0, np.float32)
        self._width = 0

    def take(self, entries: Sequence[RankEntry], live: LiveRows) -> None:
        """Lay the candidates of entries out."""
        counts = [len(entry.candidates) for entry in entries]
        self._shape(len(counts), max(counts))
        self.counts = np.array(counts, np.int64)
        for row, (entry, count) in enumerate(zip(entries, counts, strict=True)):
            own = entry.candidates
            self.rows[row, :count] = own.numbers
            self.scores[row, :count] = own.scores
            self._sources[row, :count] = own.sources
        lay_candidates(
            self.counts, self.rows, self.scores, self._sources, self._blank, live.known, self.known
        )

    def _shape(self, cases: int, width: int) -> None:
        """Have room for a batch of so many cases by so many candidates."""
        size = cases * width
        if size > self._size:
            self._size = size
            self._columns = [np.empty(size, kind) for kind in _COLUMNS]
            self._pairs = np.empty(size * self._features, np.float32)
            self._sides = np.empty(size * (self._features + LEARNED_PAIRS), np.float32)
        if width > self._width:
            self._width = width
            whole = -(-width // TOGETHER) * TOGETHER
            slots = 1 << (4 * width - 1).bit_length()
            self.scratch = (
                np.zeros(slots, np.int32),
                self._sums,
                np.zeros((whole, LANES), np.float32),
            )
            self.likeness = np.zeros((whole, self._groups * LANES), np.float32)
        shape = cases, width
        columns: Any = (column[:size].reshape(shape) for column in self._columns)
        self.rows, self.scores, self._sources, self.known = columns
        self.out = self._pairs[: size * self._features].reshape(self._features, *shape)
        wide = self._features + LEARNED_PAIRS
        self.compared = self._sides[: size * wide].reshape(wide, *shape)
