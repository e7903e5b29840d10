"""What a ranking entry must be; the messages state the rule and the value."""

from __future__ import annotations

import numpy as np

from corerec.errors import InvalidArgument
from corerec.stages import MAX_CANDIDATES, MAX_HISTORY, Candidates, UserContext


def check_columns(candidates: Candidates) -> None:
    """Raise InvalidArgument unless the columns are as long as each other, and not too long."""
    count = len(candidates.numbers)
    if count > MAX_CANDIDATES:
        raise InvalidArgument(f"candidates must be at most {MAX_CANDIDATES}, got {count}")
    if count == len(candidates.scores) == len(candidates.sources):
        return
    for name in ("scores", "sources"):
        if (got := len(getattr(candidates, name))) != count:
            raise InvalidArgument(f"candidates need {count} {name}, as many as numbers, got {got}")


def check_candidates(candidates: Candidates) -> None:
    """Raise InvalidArgument unless numbers are at least 0, each once, and scores are finite."""
    check_columns(candidates)
    if not len(candidates):
        return
    ascending = np.sort(candidates.numbers)
    if ascending[0] < 0:
        raise InvalidArgument(f"item numbers must be >= 0, got {ascending[0]}")
    if (same := ascending[1:] == ascending[:-1]).any():
        raise InvalidArgument(f"item {ascending[int(same.argmax())]} must be there once, got more")
    if not np.isfinite(candidates.scores).all():
        place = int(np.argmin(np.isfinite(candidates.scores)))
        raise InvalidArgument(
            f"scores must be finite, number {place} is {candidates.scores[place]}"
        )


def keeps_rules(candidates: Candidates) -> bool:
    """Return whether `check_candidates` finds nothing."""
    try:
        check_candidates(candidates)
    except InvalidArgument:
        return False
    return True


def check_user(user: UserContext) -> None:
    """Raise InvalidArgument when history or moment breaks a rule."""
    if len(user.items) != len(user.times):
        raise InvalidArgument(
            f"history must have as many times as items, got {len(user.times)} and {len(user.items)}"
        )
    if len(user.items) > MAX_HISTORY:
        raise InvalidArgument(f"history must be at most {MAX_HISTORY}, got {len(user.items)}")
    if user.now < 0:
        raise InvalidArgument(f"request time must be >= 0 microseconds, got {user.now}")
