"""Runs ghz once and reads what it measured."""

from __future__ import annotations

import json
import resource
import subprocess
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

CALL = "corerec.v1.RecommenderService/Recommend"
CONNECTIONS = 4


@dataclass(frozen=True, kw_only=True)
class Load:
    """One load: so many callers that wait for their answers, or so many calls a second that do not.

    Exactly one of the two is set.
    """

    callers: int = 0
    rate: float = 0.0
    seconds: float

    @property
    def name(self) -> str:
        """Name of the load's file."""
        return f"closed-{self.callers}" if self.callers else f"open-{self.rate:.0f}"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one load met. Latencies in milliseconds, of calls that ended OK only."""

    load: Load
    ok: int
    errors: dict[str, int]
    seconds: float
    """From the first call sent to the last answer."""
    p50: float
    p95: float
    p99: float
    slowest: float
    generator_cpus: float
    """Cores that ghz itself kept busy."""
    degraded: dict[str, float] | None = None
    """Answers by what was missing from them, from the gateway's metrics; None when not known."""

    @property
    def qps(self) -> float:
        """Answers a second that ended OK."""
        return self.ok / self.seconds


def measure(raw: dict[str, Any], load: Load, *, generator_cpu_seconds: float) -> Measured:
    """Return what a ghz JSON report says, from its record of every call."""
    details = raw["details"] or []
    latencies = np.array([d["latency"] for d in details if d["status"] == "OK"], float) / 1e6
    errors = Counter(d["status"] for d in details if d["status"] != "OK")
    seconds = _span(details) or raw["total"] / 1e9
    p50, p95, p99, slowest = (
        np.percentile(latencies, [50, 95, 99, 100]).tolist() if len(latencies) else [np.nan] * 4
    )
    return Measured(
        load=load,
        ok=len(latencies),
        errors=dict(errors),
        seconds=seconds,
        p50=p50,
        p95=p95,
        p99=p99,
        slowest=slowest,
        generator_cpus=generator_cpu_seconds / seconds,
    )


def _span(details: list[dict[str, Any]]) -> float:
    """Return seconds from the first call's start to the last call's end."""
    if not details:
        return 0.0
    starts = [_seconds(d["timestamp"]) for d in details]
    ends = [start + d["latency"] / 1e9 for start, d in zip(starts, details, strict=True)]
    return float(max(ends) - min(starts))


def _seconds(stamp: str) -> float:
    # ghz writes nanoseconds, which datetime does not read.
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")


def command(ghz: Path, root: Path, address: str, requests: Path, load: Load) -> list[str]:
    """Return the ghz command line of a load. `requests`: a JSON array, sent in turn."""
    loop = ["-c", str(load.callers)]
    if load.rate:
        # More workers than calls in flight, none of which waits for an answer.
        loop = ["--async", "-r", f"{load.rate:.0f}", "-c", "64"]
    connections = str(min(CONNECTIONS, load.callers or CONNECTIONS))
    return [
        *(str(ghz), "--insecure", "--call", CALL, "--data-file", str(requests)),
        *("--proto", str(root / "protos/corerec/v1/recommender.proto")),
        *("--import-paths", str(root / "protos")),
        *(*loop, "--connections", connections, "--duration", f"{load.seconds:g}s"),
        *("--duration-stop", "wait", "--timeout", "2s", "--format", "json", address),
    ]


def run(ghz: Path, root: Path, address: str, requests: Path, load: Load) -> tuple[Measured, Any]:
    """Run a load. Returns what was measured and ghz's report without its record of every call."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command(ghz, root, address, requests, load),
        capture_output=True,
        text=True,
        timeout=load.seconds + 60,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"ghz failed: {done.stderr.strip() or done.stdout.strip()}")
    raw = json.loads(done.stdout.replace(f"{root}/", ""))  # no paths of this machine
    raw.get("options", {}).pop("data", None)  # every request of the data file
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    measured = measure(raw, load, generator_cpu_seconds=cpu)
    return measured, {key: value for key, value in raw.items() if key != "details"}
