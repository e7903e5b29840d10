"""Cases: a user at a moment, what was known then, and the item that came next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from corerec.errors import InvalidArgument
from corerec.stages import MAX_HISTORY, Int64s, UserContext


@dataclass(frozen=True, kw_only=True)
class Cases:
    """C cases over one array of events sorted by user, then time."""

    user_row: Int64s
    """(C,) user rows."""
    right: Int64s
    """(C,) the item number that came next."""
    now: Int64s
    """(C,) when it came, microseconds since 1970."""
    first: Int64s
    """(C,) where the user's events begin."""
    before: Int64s
    """(C,) where they end, strictly before the case: what comes later is not seen."""
    items: Int64s
    """(E,) item numbers of all events."""
    times: Int64s
    """(E,) their times."""

    def __post_init__(self) -> None:
        """Check the shapes. Raises InvalidArgument."""
        for name in ("right", "now", "first", "before"):
            if len(getattr(self, name)) != len(self.user_row):
                raise InvalidArgument(
                    f"{name} must have {len(self.user_row)} values, got {len(getattr(self, name))}"
                )

    def __len__(self) -> int:
        return len(self.user_row)

    def take(self, rows: Int64s) -> Cases:
        """Return these cases, in this order."""
        return Cases(
            user_row=self.user_row[rows],
            right=self.right[rows],
            now=self.now[rows],
            first=self.first[rows],
            before=self.before[rows],
            items=self.items,
            times=self.times,
        )

    def sample(self, count: int, rng: np.random.Generator) -> Cases:
        """Return at most `count` cases drawn without replacement, in their own order."""
        if len(self) <= count:
            return self
        return self.take(np.sort(rng.choice(len(self), count, replace=False)))

    def histories(self, rows: Int64s, limit: int = MAX_HISTORY) -> list[Int64s]:
        """Return views of the newest items of each of these cases, oldest first."""
        return [self.items[start:end] for start, end in self._spans(rows, limit)]

    def contexts(
        self, rows: Int64s, user_ids: Sequence[str], attributes: Sequence[Mapping[str, str]]
    ) -> list[UserContext]:
        """Return what a request at each case's moment would have carried.

        Shapes: user_ids and attributes by user row.
        """
        return [
            UserContext(
                user_id=user_ids[user],
                attributes=attributes[user],
                items=self.items[start:end],
                times=self.times[start:end],
                now=now,
            )
            for user, now, (start, end) in zip(
                self.user_row[rows].tolist(),
                self.now[rows].tolist(),
                self._spans(rows, MAX_HISTORY),
                strict=True,
            )
        ]

    def _spans(self, rows: Int64s, limit: int) -> list[tuple[int, int]]:
        end = self.before[rows]
        start = np.maximum(self.first[rows], end - limit)
        return list(zip(start.tolist(), end.tolist(), strict=True))
