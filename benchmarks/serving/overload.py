"""Latency and goodput of one peer from a tenth to twice its capacity, in open loops.

    python -m benchmarks.serving.overload [--peer a16] [--release FOLDER] [--quick]

Capacity is what a closed loop of many callers gets. Each call has the deadline that a caller
without one has, so the peer may leave a late stage out (degraded) or give up (an error); both are
counted at every load. About two minutes, beside training the release the first time.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving import machine
from benchmarks.serving.__main__ import CONFIG, ITEMS
from benchmarks.serving.load import Load, Point, point, run, to_json, write_requests
from benchmarks.serving.machine import ROOT
from benchmarks.serving.peers import PEERS, Served, running
from benchmarks.serving.pictures import draw_overload
from benchmarks.serving.release import prepare
from benchmarks.serving.report import RESULTS, write_page

SHARES = (0.1, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0)
CALLERS = 64
DEADLINE_SECONDS = 0.5
"""`default_deadline_ms` of the gateway."""


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.overload")
    add = parser.add_argument
    add("--quick", action="store_true", help="50,000 items, 2 s a point; docs untouched")
    add("--items", type=int, help=f"of the benchmark's own world, default {ITEMS:,}")
    add("--release", type=Path, help="serve this release instead of the benchmark's own")
    add("--config", type=Path, help="deployment file; default: CoreRec's defaults")
    add("--peer", choices=list(PEERS), default="a")
    add("--arrivals", choices=("constant", "poisson"), default="poisson")
    add("--seconds", type=float, help="length of a load, default 6")
    add("--shares", type=float, nargs="+", default=list(SHARES), help="of the capacity")
    add("--generator", type=Path, default=ROOT / ".tools/bin/loadgen")
    add("--folder", type=Path, default=ROOT / ".bench", help="keeps world, release, store")
    add("--out", type=Path, help="default benchmarks/results/serving, with --quick .bench/quick")
    chosen = parser.parse_args(argv)
    chosen.items = chosen.items or (50_000 if chosen.quick else ITEMS)
    chosen.seconds = chosen.seconds or (2.0 if chosen.quick else 6.0)
    chosen.out = chosen.out or (chosen.folder / "quick" if chosen.quick else RESULTS)
    machine.need(chosen.generator)
    return chosen


def goodput(calls: Mapping[str, Any]) -> float:
    """Return complete answers a second that came within the deadline of when they were due."""
    due, done = (np.asarray(calls[name], np.int64) for name in ("due_micros", "done_micros"))
    complete = (np.asarray(calls["code"]) == "OK") & ~np.asarray(calls["degraded"], bool)
    good = complete & (done - due <= DEADLINE_SECONDS * 1e6)
    return float(good.sum() / (done.max() - due.min()) * 1e6)


def sweep(served: Served, chosen: argparse.Namespace, requests: Path) -> dict[str, Any]:
    """Run every load. Returns capacity and points."""

    asked = 0

    def load(one: Load) -> tuple[Point, float]:
        nonlocal asked
        one = replace(one, first=asked)
        calls, cpu, seconds = run(chosen.generator, served, requests, one)
        asked += len(calls["code"] or [])
        return point(calls, one, cpu, seconds, peer=chosen.peer, round=1), goodput(calls)

    load(Load(callers=8, seconds=min(3.0, chosen.seconds)))  # warm
    capacity = load(Load(callers=CALLERS, seconds=chosen.seconds))[0].qps
    print(f"capacity: {capacity:.0f} answers/s with {CALLERS} callers", flush=True)
    rows = []
    for share in chosen.shares:
        rate = max(1.0, round(share * capacity, 1))
        one = Load(
            rate=rate,
            seconds=chosen.seconds,
            arrivals=chosen.arrivals,
            timeout_seconds=DEADLINE_SECONDS,
        )
        met, complete = load(one)
        rows.append(to_json(met) | {"share": share, "goodput": round(complete, 1)})
        p50, p99 = (f"{v:.1f}" if not math.isnan(v) else "-" for v in (met.p50, met.p99))
        print(
            f"  {100 * share:4.0f}% {rate:7.0f}/s offered  goodput {complete:7.1f}/s"
            f"  p50 {p50:>6}  p99 {p99:>6} ms  {met.degraded} degraded  errors {met.errors}"
            f"  generator {met.generator_cpu_ms_per_request:.2f} CPU ms/answer,"
            f" late {met.late_p99:.1f} ms",
            flush=True,
        )
    return {"capacity": round(capacity, 1), "capacity_callers": CALLERS, "points": rows}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write overload.json and overload.png, and renew the page."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the peer is stopped
    arguments = sys.argv[1:] if argv is None else list(argv)
    chosen = options(arguments)
    subject = prepare(chosen.folder, chosen.release, chosen.items)
    config = chosen.config.read_text() if chosen.config else CONFIG
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        requests = Path(scratch) / "requests.bin"
        write_requests(subject.requests, requests)
        with running(chosen.peer, subject, config) as served:
            machine.settle()
            found = sweep(served, chosen, requests)
    results = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": shlex.join(["python", "-m", "benchmarks.serving.overload", *arguments]),
        "machine": machine.describe(),
        "subject": subject.describe(),
        "peer": chosen.peer,
        "arrivals": chosen.arrivals,
        "seconds": chosen.seconds,
        "deadline_seconds": DEADLINE_SECONDS,
        **found,
    }
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "overload.json").write_text(json.dumps(results, indent=1) + "\n")
    draw_overload(results, chosen.out / "overload.png")
    if (chosen.out / "results.json").exists():
        write_page(chosen.out)
    print(f"results: {chosen.out / 'overload.json'}")


if __name__ == "__main__":
    main()
