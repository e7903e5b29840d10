"""One closed loop of ghz on one peer, with the CPU that both used."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.loadtest.ghz import CALL, Load, measure
from benchmarks.serving.machine import ROOT, busy_seconds
from benchmarks.serving.peers import Served
from benchmarks.serving.processes import cpu_seconds, family

CALLERS_PER_CONNECTION = 8
TIMEOUT_SECONDS = 10
"""Long enough that no peer fails for being slow: a slow answer counts as slow, not as an error."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """What one load of one peer met. Latencies in milliseconds, of calls that ended OK."""

    peer: str
    callers: int
    round: int
    ok: int
    errors: dict[str, int]
    degraded: int | None
    """Things missing from answers, by the gateway's own count; None: the peer cannot degrade."""
    seconds: float
    qps: float
    p50: float
    p95: float
    p99: float
    cpu_ms_per_request: float
    """Core-milliseconds that the machine spent on an answer, without the generator's."""
    own_cpu_ms_per_request: float
    """The same of the peer's processes alone; less where the kernel works for none of them, and
    right also where the machine does something else meanwhile."""
    generator_cpu_ms_per_request: float
    busy_cores: float
    """Cores that were busy in all, generator included."""


@dataclass(frozen=True, kw_only=True)
class Cpu:
    """Core-seconds of one load."""

    machine: float
    """All that was computed meanwhile."""
    own: float
    """Of the peer's processes."""
    generator: float
    harness: float
    """This process's own share."""

    @property
    def peer(self) -> float:
        """What is left: the peer, and whatever else the machine did."""
        return max(0.0, self.machine - self.generator - self.harness)


def connections(callers: int) -> int:
    """Return how many connections so many callers share."""
    return max(1, callers // CALLERS_PER_CONNECTION)


def command(ghz: Path, address: str, requests: Path, load: Load) -> list[str]:
    """Return ghz's command line. `requests`: a JSON array, sent in turn."""
    return [
        *(str(ghz), "--insecure", "--call", CALL, "--data-file", str(requests)),
        *("--proto", str(ROOT / "protos/corerec/v1/recommender.proto")),
        *("--import-paths", str(ROOT / "protos")),
        *("-c", str(load.callers), "--connections", str(connections(load.callers))),
        *("--duration", f"{load.seconds:g}s", "--duration-stop", "wait"),
        *("--timeout", f"{TIMEOUT_SECONDS}s", "--format", "json", address),
    ]


def run(ghz: Path, served: Served, requests: Path, load: Load) -> tuple[dict[str, Any], Cpu, float]:
    """Run a load. Returns ghz's report, the CPU used and the seconds that the CPU is of."""
    report = requests.with_name("report.json")
    members = family(served.pid)
    own, harness = cpu_seconds(members), time.process_time()
    machine, started = busy_seconds(), time.monotonic()
    with report.open("wb") as output:
        child = subprocess.Popen(command(ghz, served.address, requests, load), stdout=output)
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()
            raise
        # wait4 has reaped it: tell Popen, which would otherwise look for it.
        child.returncode = os.waitstatus_to_exitcode(status)
    cpu = Cpu(
        machine=busy_seconds() - machine,
        own=cpu_seconds(members) - own,
        generator=usage.ru_utime + usage.ru_stime,
        harness=time.process_time() - harness,
    )
    seconds = time.monotonic() - started
    if child.returncode:
        raise SystemExit(f"ghz failed: {report.read_text()[-2000:]}")
    return json.loads(report.read_text()), cpu, seconds


def point(
    raw: dict[str, Any],
    load: Load,
    cpu: Cpu,
    seconds: float,
    *,
    peer: str,
    round: int,
    degraded: int | None,
) -> Point:
    """Return what a ghz report and the CPU say. Raises SystemExit when no call ended OK."""
    measured = measure(raw, load, generator_cpu_seconds=cpu.generator)
    if not measured.ok:
        raise SystemExit(f"peer {peer}: no call of {load.callers} callers ended OK: {measured}")
    return Point(
        peer=peer,
        callers=load.callers,
        round=round,
        ok=measured.ok,
        errors=measured.errors,
        degraded=degraded,
        seconds=measured.seconds,
        qps=measured.qps,
        p50=measured.p50,
        p95=measured.p95,
        p99=measured.p99,
        cpu_ms_per_request=1e3 * cpu.peer / measured.ok,
        own_cpu_ms_per_request=1e3 * cpu.own / measured.ok,
        generator_cpu_ms_per_request=1e3 * cpu.generator / measured.ok,
        busy_cores=cpu.machine / seconds,
    )


def to_json(point: Point) -> dict[str, Any]:
    """Return the point with its numbers rounded to what they are good for."""
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(point).items()}
