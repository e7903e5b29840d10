"""The cores that a process serves on, and those that its long work may use beside them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from corerec.errors import ConfigError

_allowed: set[int] = set()
"""Where this process ran before it was pinned; empty: it is not."""


def pin(cores: Sequence[int]) -> None:
    """Let this process run on these cores alone, with every thread that it has or will have.

    Raises:
        ConfigError: this process may not run on one of them, or it is not there.
    """
    if not cores:
        return
    allowed = os.sched_getaffinity(0)
    if not allowed.issuperset(cores):
        raise ConfigError(f"cores must be some of {sorted(allowed)}, got {list(cores)}")
    _allowed.update(allowed)
    for thread in own_threads():
        with contextlib.suppress(ProcessLookupError):  # it ended just now
            os.sched_setaffinity(thread, cores)


def run_anywhere() -> None:
    """Let this thread use every core that the process had before it was pinned.

    For work of seconds and more, which would halve what the cores that serve can do.
    """
    if _allowed:
        os.sched_setaffinity(0, _allowed)


def own_threads() -> list[int]:
    """Return the threads of this process: Linux keeps where and how soon each of them runs."""
    return [int(thread.name) for thread in Path("/proc/self/task").iterdir()]
