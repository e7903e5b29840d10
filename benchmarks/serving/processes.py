"""Ends what the benchmark started, and only that: by process id, and start time against reuse."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")
_KILLED_SECONDS = 10.0


class Process(NamedTuple):
    """One process of this machine."""

    pid: int
    started: int
    """Clock ticks since the machine started: a process id is used again."""


def command_names(members: Iterable[Process]) -> set[str]:
    """Return the names of the programs that these processes run."""
    paths = (Path(f"/proc/{member.pid}/comm") for member in members)
    return {path.read_text().strip() for path in paths if path.exists()}


def family(pid: int) -> list[Process]:
    """Return the process, its children, and theirs."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (state := _read(int(folder.name))) is not None:
            children.setdefault(state[0], []).append(int(folder.name))
    found, waiting = [], [pid]
    while waiting:
        member = waiting.pop()
        waiting += children.get(member, [])
        if (state := _read(member)) is not None:
            found.append(Process(member, state[1]))
    return found


def cpu_seconds(members: Iterable[Process]) -> float:
    """Return core-seconds that these processes, as far as they still run, have computed."""
    states = (_read(member.pid) for member in members)
    return sum(state[2] for state in states if state is not None) / _TICKS


def memory_mib(members: Iterable[Process]) -> float:
    """Return the memory of these processes in MiB; a page that several share counts once."""
    total = 0
    for member in members:
        with contextlib.suppress(OSError):  # it ended just now
            text = Path(f"/proc/{member.pid}/smaps_rollup").read_text()
            total += next(int(x.split()[1]) for x in text.splitlines() if x.startswith("Pss:"))
    return total / 1024


def alive(process: Process) -> bool:
    """Return whether this very process still runs; one that only waits to be reaped does not."""
    state = _read(process.pid)
    return state is not None and state[1] == process.started


def end(pid: int, ask: Callable[[], object], seconds: float = 60.0) -> None:
    """Ask the process to end, wait for its whole family, and kill what is still there."""
    members = family(pid)
    ask()
    if _wait(members, seconds):
        return
    for member in members:
        if alive(member):
            with contextlib.suppress(ProcessLookupError):  # it ended just now
                os.kill(member.pid, signal.SIGKILL)
    _wait(members, _KILLED_SECONDS)


def _wait(members: Sequence[Process], seconds: float) -> bool:
    """Return whether all have ended, as soon as they have or after so many seconds."""
    deadline = time.monotonic() + seconds
    while any(alive(member) for member in members):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


def _read(pid: int) -> tuple[int, int, int] | None:
    """Return parent, start and clock ticks computed of a process that runs."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold anything
    if fields[0] in "ZX":
        return None
    return int(fields[1]), int(fields[19]), int(fields[11]) + int(fields[12])
