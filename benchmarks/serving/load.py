"""One load of one peer by `benchmarks/loadgen`, with the CPU that both used.

Closed loop: callers that wait for their answers. Open loop: calls on a schedule that waits for
none; their latencies count from the moment at which they were due, so a generator that falls behind
lengthens them instead of hiding what it did not send.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from google.protobuf.json_format import ParseDict

from benchmarks.serving.machine import busy_seconds
from benchmarks.serving.peers import Served
from benchmarks.serving.processes import cpu_seconds, family
from corerec.v1 import recommender_pb2

CALLERS_PER_CONNECTION = 8
OPEN_CONNECTIONS = 4
TIMEOUT_SECONDS = 10.0
"""Long enough that no peer fails for being slow: a slow answer counts as slow, not as an error."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """So many callers that wait for their answers, or so many calls a second that do not.

    Exactly one of the two is set.
    """

    callers: int = 0
    rate: float = 0.0
    seconds: float
    arrivals: Literal["constant", "poisson"] = "constant"
    """Of an open loop: evenly spaced, or as independent users come."""
    timeout_seconds: float = TIMEOUT_SECONDS
    """Deadline of each call, which the peer is told."""
    first: int = 0
    """Place of the request that is sent first: users that were not asked for yet."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """What one load of one peer met. Latencies in milliseconds, of calls that ended OK."""

    peer: str
    callers: int
    """0: an open loop."""
    rate: float
    """Calls offered a second; 0: a closed loop."""
    arrivals: str
    round: int
    ok: int
    errors: dict[str, int]
    degraded: int
    """OK answers that lack something, by their own word; the textbook's never do."""
    seconds: float
    """From the first call to the last answer."""
    qps: float
    """OK answers a second."""
    p50: float
    p95: float
    p99: float
    late_p99: float
    """How long after they were due calls were sent; it is inside the latencies."""
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


def write_requests(requests: Sequence[dict[str, Any]], path: Path) -> None:
    """Write RecommendRequests as the generator reads them: each behind its length."""
    with path.open("wb") as file:
        for request in requests:
            message = ParseDict(request, recommender_pb2.RecommendRequest()).SerializeToString()
            file.write(struct.pack("<I", len(message)) + message)


def command(generator: Path, address: str, requests: Path, load: Load) -> list[str]:
    """Return the generator's command line. `requests`: what write_requests wrote, sent in turn."""
    shared = connections(load.callers) if load.callers else OPEN_CONNECTIONS
    kind = ["-callers", str(load.callers)]
    if load.rate:
        kind = ["-rate", f"{load.rate:g}", "-arrivals", load.arrivals]
    return [
        *(str(generator), "-address", address, "-requests", str(requests), *kind),
        *("-seconds", f"{load.seconds:g}", "-timeout", f"{load.timeout_seconds:g}s"),
        *("-connections", str(shared), "-first", str(load.first)),
    ]


def run(
    generator: Path, served: Served, requests: Path, load: Load
) -> tuple[dict[str, Any], Cpu, float]:
    """Run a load. Returns the generator's columns, the CPU used and the seconds that it is of."""
    report = requests.with_name("calls.json")
    members = family(served.pid)
    own, harness = cpu_seconds(members), time.process_time()
    machine, started = busy_seconds(), time.monotonic()
    with report.open("wb") as output:
        child = subprocess.Popen(command(generator, served.address, requests, load), stdout=output)
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
        raise SystemExit(f"the load generator ended with {child.returncode}; see above")
    return json.loads(report.read_text()), cpu, seconds


def point(
    calls: dict[str, Any], load: Load, cpu: Cpu, seconds: float, *, peer: str, round: int
) -> Point:
    """Return what the calls and the CPU say; latencies are NaN when no call ended OK."""
    due, sent, done = (
        np.asarray(calls[name] or [], np.int64)
        for name in ("due_micros", "sent_micros", "done_micros")
    )
    codes = np.asarray(calls["code"] or [], object)
    good = codes == "OK"
    latencies = (done - due)[good] / 1e3
    p50, p95, p99 = np.percentile(latencies, [50, 95, 99]).tolist() if good.any() else [np.nan] * 3
    span = float(done.max() - due.min()) / 1e6 if len(due) else seconds
    ok = int(good.sum())
    each = 1e3 / max(ok, 1)
    return Point(
        peer=peer,
        callers=load.callers,
        rate=load.rate,
        arrivals=load.arrivals if load.rate else "",
        round=round,
        ok=ok,
        errors=dict(Counter(codes[~good].tolist())),
        degraded=int(np.asarray(calls["degraded"] or [], bool).sum()),
        seconds=span,
        qps=ok / span,
        p50=p50,
        p95=p95,
        p99=p99,
        late_p99=float(np.percentile(sent - due, 99)) / 1e3 if len(due) else np.nan,
        cpu_ms_per_request=each * cpu.peer,
        own_cpu_ms_per_request=each * cpu.own,
        generator_cpu_ms_per_request=each * cpu.generator,
        busy_cores=cpu.machine / seconds,
    )


def to_json(point: Point) -> dict[str, Any]:
    """Return the point with its numbers rounded to what they are good for; None where unknown."""
    return {
        name: (None if np.isnan(value) else round(value, 3)) if isinstance(value, float) else value
        for name, value in asdict(point).items()
    }
