"""KeptUsers: what the ranker needs of users, laid out once and kept for their next requests."""

# S seats, B requests, m of them that are laid out anew, L history, D tower

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from corerec.features import UserIndex
from corerec.features.encode import standardised
from corerec.live.numbers import LiveRows
from corerec.ranking.features import RECENT
from corerec.ranking.frozen import Frozen
from corerec.ranking.lanes import LANES
from corerec.ranking.lay_kernel import FIXED, lay_users
from corerec.ranking.model_arrays import ModelArrays
from corerec.ranking.packed import PackedItems
from corerec.ranking.tables import ItemTables
from corerec.stages import UserContext

SEATS = 2048
"""Users that are kept."""
NEVER = -1
"""Version of the tables that a seat is right for when nothing was laid out there."""


class KeptUsers:
    """The users of one release's requests, each at a seat; not thread-safe.

    A seat is found by everything that it was made of: user id, attributes, history and its times.
    So a new event makes a new seat. The moment of a request is no part of it. A seat is laid out
    anew when an item of its history changed, or got a row. The least recently asked for go first.
    """

    def __init__(
        self,
        tables: ItemTables,
        items: PackedItems,
        live: LiveRows,
        index: UserIndex,
        model: ModelArrays,
        seats: int = SEATS,
    ) -> None:
        """Make room for `seats` users, which takes memory when they come."""
        self._model = model
        self._tables, self._items, self._live, self._index = tables, items, live, index
        schema = tables.schema
        length, width = schema.history_length, tables.tower.shape[1]
        starts = tables.follower_starts.numpy()
        followers = RECENT * tables.most_followers
        values = length * items.values
        self._follows = (
            starts,
            tables.followers.numpy(),
            tables.follower_weights.numpy(),
        )
        self.history = np.zeros((seats, length), np.int64)
        """(S, L) rows of the tables, the blank one first"""
        self.newest = np.zeros(seats, np.int64)
        """(S,) time of the newest item of the history, -1 unknown"""
        self.row = np.zeros(seats, np.int64)
        """(S,) as of UserFeatures"""
        self.categorical = np.zeros((seats, len(schema.user_categorical)), np.int32)
        """(S, Cu)"""
        self.laid = (
            np.zeros((seats, width, LANES), np.float32),
            np.zeros((seats, followers), np.int32),
            np.zeros((seats, followers, 2), np.float32),
            np.zeros((seats, values), np.int32),
            np.zeros((seats, values, 2), np.float32),
            np.zeros((seats, 3), np.int64),
        )
        """What `seat_users` writes"""
        item = model.history[0].shape[1]
        self.side = np.zeros((seats, model.width), np.float32)
        """(S, Du) as of `RankingModel.user_side`, but for the moment's numbers"""
        self.lanes = (
            np.zeros((seats, model.groups, item, LANES), np.float32),
            np.zeros((seats, model.groups * LANES), np.float32),
        )
        """What `seat_sides` writes"""
        self._tail = 2 * length  # events that a key holds
        self._scratch = np.zeros((RECENT + 2, width), np.float32), np.zeros(item, np.float32)
        self._newcomers = _Newcomers(len(schema.user_categorical), len(schema.user_numeric))
        self._code_starts = model.code_starts.tolist()
        self._told = np.zeros(seats, np.int64)  # how many events the history was made of
        self._lost = np.zeros(seats, np.bool_)  # whether an item of the history had no row
        self._made = np.zeros(seats, np.int64)  # the tables' version that a seat is right for
        self._seats: OrderedDict[Hashable, int] = OrderedDict()
        self._frozen: Frozen | None = None
        self._versions = 0, 0
        self.most = seats
        self.hits = 0
        self.misses = 0

    @property
    def fixed(self) -> int:
        """Address of what the compiled steps read, as of `lay_kernel.FIXED`."""
        versions = self._tables.version, self._items.version
        if self._frozen is None or versions != self._versions:
            model = self._model
            parts = (
                self._items.of(self._tables), self._live.known, self._follows,
                (model.user, model.codes, model.history), model.compared, self._scratch,
                (self.history, self.newest, self._lost, self._told), self.laid, self.lanes,
                self.side,
            )  # fmt: skip
            self._frozen, self._versions = Frozen(parts, FIXED), versions
        return self._frozen.address

    def find(self, users: Sequence[UserContext]) -> NDArray[np.int64]:
        """Return (B,) the seats of at most S users; those who have none are laid out."""
        found = np.empty(len(users), np.int64)
        fresh: dict[int, UserContext] = {}
        for place, user in enumerate(users):
            key = self._key(user)
            seat = self._seats.get(key, -1)
            if seat < 0:
                seat = self._free()
                self._seats[key] = seat
                self._made[seat] = NEVER
                fresh[seat] = user
            else:
                self._seats.move_to_end(key)
                if seat not in fresh and not self._holds(seat):
                    fresh[seat] = user
            found[place] = seat
        self.misses += len(fresh)
        self.hits += len(users) - len(fresh)
        if fresh:
            self._lay(fresh)
        return found

    def _key(self, user: UserContext) -> Hashable:
        items, times = user.items[-self._tail :], user.times[-self._tail :]
        moments = times.tobytes() if self._tables.schema.has_times else b""
        return user.user_id, items.tobytes(), moments, tuple(user.attributes.items())

    def _free(self) -> int:
        """Return a seat that nobody of this call has."""
        return (
            len(self._seats) if len(self._seats) < self.most else self._seats.popitem(last=False)[1]
        )

    def _holds(self, seat: int) -> bool:
        """Return whether nothing that a seat was made of has changed."""
        version = self._tables.version
        if self._made[seat] == version:
            return True
        changed = self._tables.changed[self.history[seat]].max()
        if self._lost[seat] or changed > self._made[seat]:
            return False
        self._made[seat] = version
        return True

    def _lay(self, fresh: Mapping[int, UserContext]) -> None:
        """Lay users out, each at its seat."""
        tables, room, end = self._tables, self._newcomers, 0
        room.make(len(fresh), sum(len(user.items) for user in fresh.values()))
        for place, (seat, user) in enumerate(fresh.items()):
            begin, end = end, end + len(user.items)
            room.seats[place], room.starts[place + 1] = seat, end
            room.items[begin:end], room.times[begin:end] = user.items, user.times
            self.row[seat] = room.rows[place] = self._index.row(user.user_id)
            given = user.attributes
            for column, feature in enumerate(tables.schema.user_categorical):
                code = feature.codes.get(given.get(feature.name, ""), 0)
                self.categorical[seat, column] = code
                room.codes[place, column] = code + self._code_starts[column]
            for column, number in enumerate(tables.schema.user_numeric):
                room.numbers[place, column] = standardised(number, given.get(number.name))
        lay_users(
            room.seats[: len(fresh)], (room.starts, room.items, room.times),
            (room.rows, room.codes, room.numbers), len(tables), self.fixed,
        )  # fmt: skip
        for seat in fresh:
            # Who was read further back than the key tells of is laid out each time.
            self._made[seat] = tables.version if self._told[seat] <= self._tail else NEVER


class _Newcomers:
    """What users bring who are laid out together, in arrays that are used again."""

    seats: NDArray[np.int64]
    """(m,)"""
    starts: NDArray[np.int64]
    """(m + 1,) where each user's events begin"""
    items: NDArray[np.int64]
    """(E,)"""
    times: NDArray[np.int64]
    """(E,)"""
    rows: NDArray[np.int64]
    """(m,) of the users' embeddings"""
    codes: NDArray[np.int64]
    """(m, Cu) rows of the codes' embeddings"""
    numbers: NDArray[np.float32]
    """(m, Fu)"""

    def __init__(self, codes: int, numbers: int) -> None:
        self._shape, self._users, self._events = (codes, numbers), 0, 0
        self.make(1, 1)

    def make(self, users: int, events: int) -> None:
        """Have room for at least so many users and events."""
        if users > self._users:
            self._users, (codes, numbers) = users, self._shape
            self.seats, self.rows = np.zeros(users, np.int64), np.zeros(users, np.int64)
            self.starts = np.zeros(users + 1, np.int64)
            self.codes = np.zeros((users, codes), np.int64)
            self.numbers = np.zeros((users, numbers), np.float32)
        if events > self._events:
            self._events = events
            self.items, self.times = np.zeros(events, np.int64), np.zeros(events, np.int64)
