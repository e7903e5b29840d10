"""Splits interactions by time into training, validation and test, so that nothing sees the future.

A case is one thing to predict: a user's target item at a moment, with the history before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corerec.data.dataset import Dataset
from corerec.errors import InvalidArgument

Int64s = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Histories:
    """Interactions sorted by user, and for each user by time: user u's are at offsets[u:u+2]."""

    offsets: Int64s
    """(U + 1,) where each user's interactions start."""
    items: Int64s
    """(E,) item numbers."""
    times: Int64s
    """(E,) microseconds, or the order 0, 1, 2.. where there are no times."""

    def before(self, user_rows: Int64s, positions: Int64s, length: int) -> tuple[Int64s, Int64s]:
        """Return the newest `length` items and times before each position.

        `positions` (B,) are ends in the user's own history, 0 is before the first interaction.
        Returns items and times (B, length), oldest first and padded on the left with -1: the
        last column is the newest, also in a short history.
        """
        back = np.arange(length, 0, -1)
        at = positions[:, None] - back  # (B, length), negative where the history is shorter
        missing = at < 0
        at = np.where(missing, 0, self.offsets[user_rows][:, None] + at)
        if len(self.items) == 0:
            empty = np.full(at.shape, -1, np.int64)
            return empty, empty.copy()
        return np.where(missing, -1, self.items[at]), np.where(missing, -1, self.times[at])

    def lengths(self) -> Int64s:
        """Return how many interactions each user has, (U,)."""
        return np.diff(self.offsets)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cases:
    """Things to predict, as columns, at most one for each user."""

    user_rows: Int64s
    items: Int64s
    """(C,) the target item numbers; never in the history that belongs to the case."""
    times: Int64s
    """(C,) the target's moment."""
    positions: Int64s
    """(C,) end of the history strictly before the target's moment, for `Histories.before`."""

    def __len__(self) -> int:
        return len(self.user_rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """A data set in three parts of time."""

    histories: Histories
    train: Int64s
    """Rows of dataset.interactions to learn from, ascending; all lie before every case's window."""
    validation: Cases
    test: Cases
    train_end: int
    """Moment at which the validation window starts; a per-user order has none, then -1."""
    test_start: int
    """Moment at which the test window starts; -1 where there are no times."""


def build_histories(dataset: Dataset) -> Histories:
    """Return the interactions by user; ties of time keep the order of the data set."""
    return _histories(dataset)[0]


def _histories(dataset: Dataset) -> tuple[Histories, Int64s]:
    users = dataset.interactions["user_row"].to_numpy()
    order = np.argsort(users, kind="stable").astype(np.int64)
    counts = np.bincount(users, minlength=dataset.users.height)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    items = dataset.interactions["item_number"].to_numpy()[order].astype(np.int64)
    times = dataset.interactions["time_micros"].to_numpy()[order].astype(np.int64)
    return Histories(offsets=offsets, items=items, times=times), order


def split(dataset: Dataset, *, validation: float = 0.05, test: float = 0.05) -> Split:
    """Return the time-ordered split of a data set.

    With times, `validation` and `test` are the shares of interactions in the two last windows of
    time; a case is the first item of a user in a window that the user had not taken before.
    Without times each user's last item is the test case and the one before it the validation
    case; users need three interactions for either.

    Raises:
        InvalidArgument: a share is out of range, or a part would be empty.
    """
    if not (0 < validation < 1 and 0 < test < 1 and validation + test < 1):
        raise InvalidArgument(
            "validation and test must lie between 0 and 1 and leave something to train on, "
            f"got {validation} and {test}"
        )
    histories, order = _histories(dataset)
    made = (
        _by_time(histories, order, validation, test)
        if dataset.has_times
        else _leave_one_out(histories, order)
    )
    for name, part in (
        ("train", made.train),
        ("validation", made.validation),
        ("test", made.test),
    ):
        if len(part) == 0:
            raise InvalidArgument(
                f"the split needs at least one {name} case, got 0 of {len(order)} interactions; "
                "use more data or other shares"
            )
    return made


def _by_time(histories: Histories, order: Int64s, validation: float, test: float) -> Split:
    times = np.sort(histories.times)
    count = len(times)
    # A window starts at a moment: all interactions of that moment are on the same side.
    last = min(int(count * (1 - test)), count - 1)
    test_start = int(times[last])
    before = min(int(count * (1 - test - validation)), count - 1)
    train_end = int(times[before])
    end = int(times[-1]) + 1
    return Split(
        histories=histories,
        train=np.sort(order[histories.times < train_end]),
        validation=_first_new(histories, train_end, test_start),
        test=_first_new(histories, test_start, end),
        train_end=train_end,
        test_start=test_start,
    )


def _first_new(histories: Histories, start: int, end: int) -> Cases:
    """Return each user's first interaction in [start, end) with an item not taken before it."""
    users = np.repeat(np.arange(len(histories.offsets) - 1), histories.lengths())
    inside = (histories.times >= start) & (histories.times < end)
    places = np.flatnonzero(inside & _is_first(users, histories.items))
    places = places[np.unique(users[places], return_index=True)[1]]
    rows, moments = users[places], histories.times[places]
    return Cases(
        user_rows=rows,
        items=histories.items[places],
        times=moments,
        positions=_strictly_before(histories, places, rows),
    )


def _is_first(users: Int64s, items: Int64s) -> NDArray[np.bool_]:
    """Return where a pair of user and item occurs for the first time."""
    pairs = users * (int(items.max(initial=0)) + 1) + items
    first = np.zeros(len(pairs), bool)
    first[np.unique(pairs, return_index=True)[1]] = True
    return first


def _strictly_before(histories: Histories, places: Int64s, rows: Int64s) -> Int64s:
    """Return how many of the user's interactions are earlier than the one at each place."""
    starts = histories.offsets[rows]
    new_moment = np.ones(len(histories.times), bool)
    new_moment[1:] = histories.times[1:] != histories.times[:-1]
    run_start = np.maximum.accumulate(np.where(new_moment, np.arange(len(new_moment)), 0))
    # A run of equal moments may reach over from the user before.
    return np.maximum(run_start[places], starts) - starts


def _leave_one_out(histories: Histories, order: Int64s) -> Split:
    lengths = histories.lengths()
    rows = np.flatnonzero(lengths >= 3)
    held = np.zeros(len(order), bool)
    cases = []
    for back in (2, 1):
        places = histories.offsets[rows + 1] - back
        held[places] = True
        cases.append(_last_cases(histories, rows, lengths[rows] - back))
    return Split(
        histories=histories,
        train=np.sort(order[~held]),
        validation=cases[0],
        test=cases[1],
        train_end=-1,
        test_start=-1,
    )


def _last_cases(histories: Histories, rows: Int64s, positions: Int64s) -> Cases:
    places = histories.offsets[rows] + positions
    users = np.repeat(np.arange(len(histories.offsets) - 1), histories.lengths())
    # An item that the user had already is nothing to predict: it is filtered as seen.
    new = _is_first(users, histories.items)[places]
    return Cases(
        user_rows=rows[new],
        items=histories.items[places[new]],
        times=histories.times[places[new]],
        positions=positions[new],
    )
