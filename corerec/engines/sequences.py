"""Sequences: all users' events as columns, which is what every model learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from corerec.errors import InvalidArgument
from corerec.stages import MAX_HISTORY, Int64s, UserContext

if TYPE_CHECKING:
    from corerec.data.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """All users' events, user after user, oldest first: 16 bytes an event, no objects."""

    offsets: Int64s
    """(U + 1,) events of user row u are offsets[u]..offsets[u + 1]."""
    items: Int64s
    """(E,) item numbers."""
    times: Int64s
    """(E,) microseconds since 1970; the order when the data has no times."""
    item_count: int
    """N, also of items without events."""

    @classmethod
    def of(
        cls,
        users: Int64s,
        items: Int64s,
        times: Int64s | None = None,
        *,
        user_count: int | None = None,
        item_count: int | None = None,
    ) -> Sequences:
        """Return the sequences of events given in time order, of any mixture of users.

        Shapes: users (E,) rows >= 0, items (E,) numbers >= 0, times (E,), their place where absent.
        Counts that are not given are the highest number plus one.

        Raises:
            InvalidArgument: for columns of unlike length, or a row or number out of range.
        """
        users, items = np.asarray(users, np.int64), np.asarray(items, np.int64)
        times = np.arange(len(users)) if times is None else np.asarray(times, np.int64)
        if not users.shape == items.shape == times.shape or users.ndim != 1:
            raise InvalidArgument(
                "users, items and times must be columns of one length, "
                f"got {users.shape}, {items.shape} and {times.shape}"
            )
        user_count = _count("user row", users, user_count)
        item_count = _count("item number", items, item_count)
        order = np.argsort(users, kind="stable")
        counts = np.bincount(users, minlength=user_count)
        return cls(
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            items=items[order],
            times=times[order].astype(np.int64),
            item_count=item_count,
        )

    @classmethod
    def of_dataset(cls, data: Dataset) -> Sequences:
        """Return all events of a data set."""
        table = data.interactions
        return cls.of(
            table["user_row"].to_numpy(),
            table["item_number"].to_numpy(),
            table["time_micros"].to_numpy(),
            user_count=len(data.users),
            item_count=len(data.items),
        )

    @property
    def user_count(self) -> int:
        """U, also of users without events."""
        return len(self.offsets) - 1

    @property
    def users(self) -> Int64s:
        """(E,) the user row of each event."""
        return np.repeat(np.arange(self.user_count), np.diff(self.offsets))

    def __len__(self) -> int:
        return len(self.items)

    def contexts(
        self, rows: Int64s | Sequence[int], user_ids: Sequence[str] | None = None
    ) -> list[UserContext]:
        """Return users with their newest events as history, as a request would carry them.

        Shapes: rows (B,) user rows; user_ids by user row, anonymous where absent.
        """
        found = []
        for row in np.asarray(rows, np.int64).tolist():
            end = int(self.offsets[row + 1])
            start = max(int(self.offsets[row]), end - MAX_HISTORY)
            found.append(
                UserContext(
                    user_id="" if user_ids is None else user_ids[row],
                    items=self.items[start:end],
                    times=self.times[start:end],
                )
            )
        return found


def as_sequences(data: Dataset | Sequences) -> Sequences:
    """Return the events of either form of training data."""
    return data if isinstance(data, Sequences) else Sequences.of_dataset(data)


def _count(what: str, numbers: Int64s, given: int | None) -> int:
    highest = int(numbers.max(initial=-1))
    lowest = int(numbers.min(initial=0))
    if lowest < 0 or (given is not None and highest >= given):
        wrong = lowest if lowest < 0 else highest
        end = "" if given is None else f" and below {given}"
        raise InvalidArgument(f"a {what} must be at least 0{end}, got {wrong}")
    return highest + 1 if given is None else given
