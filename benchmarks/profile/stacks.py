"""Samples the Python stacks of processes with py-spy and counts them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

HERTZ = 200
WAITING = "Worker.main_loop (ray/_private/worker.py)"
"""Innermost frame of a replica's main thread: it waits inside Ray and computes next to nothing, by
the system's count, but py-spy takes it for active."""
Stacks = Counter[tuple[str, ...]]
"""Samples by stack, outermost frame first."""


def find_py_spy() -> Path:
    """Return py-spy's program. Raises SystemExit without it."""
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if not found:
        raise SystemExit(f"py-spy is missing: {sys.executable} -m pip install py-spy")
    return Path(found)


def record(
    py_spy: Path, pids: Iterable[int], folder: Path, seconds: float
) -> list[subprocess.Popen[bytes]]:
    """Start to sample processes, which run on meanwhile; FOLDER/PID.txt is there when it ends.

    A thread that waits is not sampled. Compiled code counts to the Python function that called it.
    """
    children = []
    for pid in pids:
        words = [str(py_spy), "record", "--pid", str(pid), "--duration", f"{seconds:.0f}"]
        words += ["--rate", str(HERTZ), "--format", "raw", "--function", "--nonblocking"]
        words += ["--output", str(folder / f"{pid}.txt")]
        with (folder / f"{pid}.log").open("wb") as log:
            children.append(subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT))
    return children


def finish(children: Iterable[subprocess.Popen[bytes]], folder: Path, seconds: float) -> None:
    """Wait for samplers. Raises SystemExit with what one said when it failed."""
    for child in children:
        try:
            failed = child.wait(seconds + 30)
        finally:
            child.kill()
        if failed:
            said = "".join(path.read_text()[-500:] for path in sorted(folder.glob("*.log")))
            raise SystemExit(f"py-spy failed; it may read other processes only as root: {said}")


def read(services: Mapping[str, Iterable[int]], folder: Path) -> dict[str, Stacks]:
    """Return each service's stacks, its replicas together."""
    return {
        service: sum((parse((folder / f"{pid}.txt").read_text()) for pid in pids), Counter())
        for service, pids in services.items()
    }


def parse(text: str) -> Stacks:
    """Return the stacks of py-spy's raw format: `outer;inner 12` a line."""
    stacks: Stacks = Counter()
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = tuple(_frame(frame) for frame in stack.split(";"))
        if frames[-1] != WAITING:
            stacks[frames] += int(count)
    return stacks


def own(stacks: Stacks) -> Counter[str]:
    """Return samples by the innermost frame: where the time itself goes."""
    counts: Counter[str] = Counter()
    for stack, count in stacks.items():
        counts[stack[-1]] += count
    return counts


def _frame(text: str) -> str:
    # `name (a/path/of/this/machine/site-packages/grpc/aio/_server.py:12)`
    name, _, place = text.partition(" (")
    file = place.rstrip(")").partition(":")[0]
    for folder in ("site-packages/", "/lib/python3"):
        if folder in file:
            file = file.rpartition(folder)[2]
    if file.startswith("/"):
        file = "/".join(Path(file).parts[-2:])
    return f"{name} ({file})" if file else name
