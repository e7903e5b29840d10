"""What an index must reach, and how it is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from corerec.errors import InvalidArgument

Prefer = Literal["both", "single", "batch"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is asked of an index. Of those that reach it the fastest is chosen."""

    recall: float = 0.95
    """Share of the exact best `at` that must be found, in the mean of all queries, (0, 1]. The
    lower end of the mean's 95% confidence interval is what has to reach it."""
    at: int = 500
    """The k that is searched for, >= 1."""
    memory: int | None = None
    """Most bytes of index and vectors together, > 0; None is no limit."""
    prefer: Prefer = "both"
    """What the fastest is by: one query alone, queries in batches, or the product of both."""
    threads: int = 2
    """Threads that a batch is searched with, >= 1; a query alone has one."""
    batch: int = 256
    """Queries in a batch, >= 1."""
    slower: float = 3.0
    """Kinds that are so many times slower than the fastest on a part of the catalogue are not
    built for all of it. >= 1."""
    pilot: int = 50_000
    """Items of that part; smaller catalogues are measured whole at once. >= 1."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges. Raises InvalidArgument."""
        if not 0 < self.recall <= 1:
            raise InvalidArgument(f"recall must be in (0, 1], got {self.recall}")
        for name in ("at", "threads", "batch", "pilot"):
            if getattr(self, name) < 1:
                raise InvalidArgument(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.memory is not None and self.memory < 1:
            raise InvalidArgument(f"memory must be above 0 bytes, got {self.memory}")
        if not (math.isfinite(self.slower) and self.slower >= 1):
            raise InvalidArgument(f"slower must be at least 1, got {self.slower}")
        if self.prefer not in get_args(Prefer):
            raise InvalidArgument(
                f"prefer must be one of {list(get_args(Prefer))}, got {self.prefer!r}"
            )
