"""CoreRec beside textbook Ray Serve on one release: `make bench`."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.loadtest.ghz import Load
from benchmarks.serving import machine
from benchmarks.serving.answers import Answer, ask, check_same, degraded
from benchmarks.serving.breakdown import breakdown
from benchmarks.serving.load import Point, point, run, to_json
from benchmarks.serving.machine import ROOT
from benchmarks.serving.peers import PEERS, Served, running
from benchmarks.serving.pictures import draw_callers, draw_stages
from benchmarks.serving.release import Subject, prepare
from benchmarks.serving.report import fill, render
from benchmarks.serving.results import best, ratios, targets

RESULTS = ROOT / "benchmarks/results/serving"
PAGE = ROOT / "docs/benchmarks.md"
REFERENCE = "d"
"""Whose answers the others' must equal; runs first."""
CONFIG = '[ranking]\ndevice = "cpu"\n'
QUIET_CORES = 0.1
SETTLED_CORES = 0.4
"""Less than this is busy when a started peer is at rest; Ray alone takes 0.2."""
SETTLE_SECONDS = 45.0


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line; --quick changes defaults only."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="smoke run: 2 s a point, one round, docs untouched")
    add("--release", type=Path, help="serve this release instead of the benchmark's own")
    add("--config", type=Path, help="deployment file for every peer; default: CoreRec's defaults")
    add("--callers", type=int, nargs="+", default=[1, 8, 32])
    add("--seconds", type=float, help="length of a load, default 8")
    add("--rounds", type=int, help="default 2; every peer counts with its better one")
    add("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    add("--sample", type=int, default=100, help="users whose answers must be equal")
    add("--requests", type=int, help="requests for the breakdown, default 2000")
    add("--ghz", type=Path, default=ROOT / ".tools/bin/ghz")
    add(
        "--folder",
        type=Path,
        default=ROOT / ".bench",
        help="keeps world, release, store",
    )
    add("--out", type=Path, help="default benchmarks/results/serving, with --quick .bench/quick")
    chosen = parser.parse_args(argv)
    quick = chosen.quick
    chosen.seconds = chosen.seconds or (2.0 if quick else 8.0)
    chosen.rounds = chosen.rounds or (1 if quick else 2)
    chosen.requests = chosen.requests or (200 if quick else 2000)
    chosen.out = chosen.out or (chosen.folder / "quick" if quick else RESULTS)
    if not chosen.ghz.exists():
        raise SystemExit(f"{chosen.ghz}: no such file; scripts/tools ghz builds it (needs Go)")
    return chosen


def settle() -> None:
    """Wait until a peer's start is over: Ray's helpers go on importing after it answers."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while machine.busy_cores(1.0) > SETTLED_CORES and time.monotonic() < deadline:
        pass  # busy_cores waits a second


class Bench:
    """One run: what is asked, and what was met so far."""

    def __init__(self, chosen: argparse.Namespace, subject: Subject, scratch: Path) -> None:
        self.chosen, self.subject = chosen, subject
        self.config = chosen.config or scratch / "serve.toml"
        if not chosen.config:
            self.config.write_text(CONFIG)
        self.requests = scratch / "requests.json"
        self.requests.write_text(json.dumps(subject.requests))
        self.reference: list[Answer] = []
        self.points: list[Point] = []
        self.stages: list[dict[str, Any]] = []
        self.idle: list[dict[str, Any]] = []

    def measure(self, key: str, round: int) -> None:
        """Run one peer once: check its answers, warm it, load it."""
        chosen = self.chosen
        busy = machine.busy_cores(1.0)
        self.idle.append({"before": key, "round": round, "busy_cores": round_to(busy)})
        warning = "  (the machine is busy: expect noise)" if busy > QUIET_CORES else ""
        print(f"round {round}, ({key}) {PEERS[key].name}{warning}", flush=True)
        with running(key, self.subject, self.config) as served:
            self._check(key, served)
            settle()
            warm = Load(callers=8, seconds=min(3.0, chosen.seconds))
            run(chosen.ghz, served, self.requests, warm)
            for callers in chosen.callers:
                self._load(key, served, round, callers)
            if key == "a" and round == 1:
                self._stages(served)

    def _check(self, key: str, served: Served) -> None:
        count = min(self.chosen.sample, len(self.subject.requests))
        answers = ask(served.address, self.subject.requests, count=count, callers=1)
        self.reference = self.reference or answers
        check_same(key, answers, self.reference)

    def _load(self, key: str, served: Served, round: int, callers: int) -> None:
        load = Load(callers=callers, seconds=self.chosen.seconds)
        before = degraded(served.metrics)
        raw, cpu, seconds = run(self.chosen.ghz, served, self.requests, load)
        after = degraded(served.metrics)
        missing = None if before is None or after is None else after - before
        met = point(raw, load, cpu, seconds, peer=key, round=round, degraded=missing)
        self.points.append(met)
        print(
            f"  {callers:3} callers {met.qps:7.0f} answers/s  p50 {met.p50:6.1f}"
            f"  p95 {met.p95:6.1f}  p99 {met.p99:6.1f} ms"
            f"  {met.cpu_ms_per_request:6.2f} CPU ms/answer"
            f" ({met.own_cpu_ms_per_request:.2f} own)"
            f"  {sum(met.errors.values())} errors",
            flush=True,
        )

    def _stages(self, served: Served) -> None:
        for callers in sorted({min(self.chosen.callers), max(self.chosen.callers)}):
            first = 2 * callers  # they find connections and caches cold
            count = self.chosen.requests + first
            answers = ask(served.address, self.subject.requests, count=count, callers=callers)
            self.stages.append(breakdown(answers[first:], callers))

    def results(self, argv: Sequence[str]) -> dict[str, Any]:
        """Return everything that results.json holds."""
        chosen = best(self.points)
        return {
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "run": {
                "command": shlex.join(["python", "-m", "benchmarks.serving", *map(_short, argv)]),
                "seconds": self.chosen.seconds,
                "rounds": self.chosen.rounds,
                "requests_for_stages": self.chosen.requests,
                "users_compared": len(self.reference),
            },
            "machine": machine.describe(self.chosen.ghz) | {"busy_before": self.idle},
            "subject": self.subject.describe(),
            "peers": {key: f"{peer.name}: {peer.what}" for key, peer in PEERS.items()},
            "degraded_possible": sorted({p.peer for p in chosen if p.degraded is not None}),
            "best": [to_json(p) for p in chosen],
            "ratios": ratios(chosen),
            "targets": targets(chosen),
            "stages": self.stages,
            "points": [to_json(p) for p in self.points],
        }


def order(keys: Sequence[str], round: int) -> list[str]:
    """Return the peers in this round's order; each round turns it, so that a drift hits all."""
    first = sorted(keys, key=lambda key: (key != REFERENCE, key))
    return first if round % 2 else first[::-1]


def round_to(value: float) -> float:
    """Return the value with three digits behind the point."""
    return round(value, 3)


def _short(argument: str) -> str:
    # What is kept must not name folders of the machine that it was measured on.
    path = Path(argument)
    return path.name if path.is_absolute() else argument


def main(argv: Sequence[str] | None = None) -> None:
    """Run everything and write results, pictures and page."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that peers are stopped
    arguments = sys.argv[1:] if argv is None else list(argv)
    chosen = options(arguments)
    subject = prepare(chosen.folder, chosen.release)
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        bench = Bench(chosen, subject, Path(scratch))
        for number in range(1, chosen.rounds + 1):
            for key in order(chosen.peers, number):
                bench.measure(key, number)
    results = bench.results(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    points = best(bench.points)
    draw_callers(points, chosen.out / "callers.png")
    if bench.stages:
        draw_stages(bench.stages, chosen.out / "stages.png")
    block = render(results, points)
    if chosen.out == RESULTS:
        PAGE.write_text(fill(PAGE.read_text(), block))
    else:
        (chosen.out / "report.md").write_text(block + "\n")
    for row in results["targets"]:
        print(f"{row['name']}: {row['measured']:.2f} x, target {row['target']:g} x")
    print(f"results: {chosen.out}")


if __name__ == "__main__":
    main()
