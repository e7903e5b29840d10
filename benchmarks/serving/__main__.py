"""CoreRec beside textbook Ray Serve on one release: `make bench`."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.serving import machine
from benchmarks.serving.answers import Answer, ask, check_same, differences
from benchmarks.serving.breakdown import breakdown
from benchmarks.serving.load import Load, Point, point, run, to_json, write_requests
from benchmarks.serving.machine import QUIET_CORES, ROOT, settle
from benchmarks.serving.peers import PEERS, Served, running
from benchmarks.serving.pictures import draw_callers, draw_waterfall
from benchmarks.serving.processes import family, memory_mib
from benchmarks.serving.release import Subject, prepare
from benchmarks.serving.report import RESULTS, write_page
from benchmarks.serving.results import best, ratios, said, targets
from benchmarks.serving.search import LIMIT_MS, Found, search

REFERENCE = "d"
"""Whose answers the others' must equal; runs first."""
ITEMS = 1_000_000
CONFIG = '[ranking]\ndevice = "cpu"\n'


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line; --quick changes defaults only."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="smoke run: 50,000 items, 2 s a point, one round")
    add("--items", type=int, help=f"of the benchmark's own world, default {ITEMS:,}")
    add("--release", type=Path, help="serve this release instead of the benchmark's own")
    add("--config", type=Path, help="deployment file for every peer; default: CoreRec's defaults")
    add("--callers", type=int, nargs="+", default=[1, 8, 32])
    add("--seconds", type=float, help="length of a load, default 4")
    add("--rounds", type=int, help="of closed loops, default 2; the better one counts")
    add("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    add("--no-search", action="store_true", help="closed loops only")
    add("--sample", type=int, default=100, help="users whose answers must be equal")
    add("--requests", type=int, help="requests for the breakdown, default 1000")
    add("--generator", type=Path, default=ROOT / ".tools/bin/loadgen")
    add("--folder", type=Path, default=ROOT / ".bench", help="keeps world, release, store")
    add("--out", type=Path, help="default benchmarks/results/serving, with --quick .bench/quick")
    chosen = parser.parse_args(argv)
    quick = chosen.quick
    chosen.items = chosen.items or (50_000 if quick else ITEMS)
    chosen.seconds = chosen.seconds or (2.0 if quick else 4.0)
    chosen.rounds = chosen.rounds or (1 if quick else 2)
    chosen.requests = chosen.requests or (200 if quick else 1000)
    chosen.out = chosen.out or (chosen.folder / "quick" if quick else RESULTS)
    machine.need(chosen.generator)
    return chosen


class Bench:
    """One run: what is asked, and what was met so far."""

    def __init__(self, chosen: argparse.Namespace, subject: Subject, scratch: Path) -> None:
        self.chosen, self.subject = chosen, subject
        self.config = chosen.config.read_text() if chosen.config else CONFIG
        self.requests = scratch / "requests.bin"
        write_requests(subject.requests, self.requests)
        self.asked = 0
        self.reference: list[Answer] = []
        self.points: list[Point] = []
        self.found: list[Found] = []
        self.stages: list[dict[str, Any]] = []
        self.started: list[dict[str, Any]] = []
        self.differences: dict[str, dict[str, float]] = {}

    def measure(self, key: str) -> None:
        """Run one peer: check its answers, warm it, load it."""
        chosen = self.chosen
        busy = machine.busy_cores(1.0)
        warning = "  (the machine is busy: expect noise)" if busy > QUIET_CORES else ""
        print(f"({key}) {PEERS[key].name}{warning}", flush=True)
        with running(key, self.subject, self.config) as served:
            self.asked = chosen.sample
            self._check(key, served)
            settle()
            self._load(key, served, 0, Load(callers=8, seconds=min(3.0, chosen.seconds)))  # warm
            for number in range(1, chosen.rounds + 1):
                # There and back, so that what changes meanwhile meets few and many callers alike.
                for callers in chosen.callers if number % 2 else chosen.callers[::-1]:
                    load = Load(callers=callers, seconds=chosen.seconds)
                    self.points.append(self._load(key, served, number, load))
            if not chosen.no_search:
                self._search(key, served)
            if key == "a":
                self._stages(served)
            memory = memory_mib(family(served.pid))
        self.started.append(
            {
                "peer": key,
                "busy_cores_before": round_to(busy),
                "start_seconds": round_to(served.start_seconds),
                "memory_mib": int(memory),
            }
        )
        print(f"  started in {served.start_seconds:.0f} s, {memory / 1024:.1f} GiB", flush=True)

    def _check(self, key: str, served: Served) -> None:
        count = min(self.chosen.sample, len(self.subject.requests))
        answers = ask(served.address, self.subject.requests[:count], count=count, callers=1)
        self.reference = self.reference or answers
        if PEERS[key].precision == "fp32":
            check_same(key, answers, self.reference)
        else:
            self.differences[key] = differences(answers, self.reference)
            print(f"  beside ({REFERENCE}): {self.differences[key]}", flush=True)

    def _load(self, key: str, served: Served, round: int, load: Load) -> Point:
        load = replace(load, first=self.asked)
        calls, cpu, seconds = run(self.chosen.generator, served, self.requests, load)
        self.asked += len(calls["code"] or [])
        met = point(calls, load, cpu, seconds, peer=key, round=round)
        what = f"{load.callers} callers" if load.callers else f"{load.rate:.0f}/s {load.arrivals}"
        print(
            f"  {what:>15} {met.qps:7.1f} answers/s  p50 {met.p50:6.1f}"
            f"  p95 {met.p95:6.1f}  p99 {met.p99:6.1f} ms"
            f"  {met.cpu_ms_per_request:6.2f} CPU ms/answer"
            f" ({met.own_cpu_ms_per_request:.2f} own, generator"
            f" {met.generator_cpu_ms_per_request:.2f})"
            f"  {sum(met.errors.values())} errors, {met.degraded} degraded",
            flush=True,
        )
        if load.callers and not met.ok:
            raise SystemExit(
                f"peer {key}: no call of {load.callers} callers ended OK: {met.errors}"
            )
        return met

    def _search(self, key: str, served: Served) -> None:
        closed = {p.callers: p for p in best(self.points) if p.peer == key}
        fewest, most = closed[min(closed)], closed[max(closed)]
        if fewest.p50 > LIMIT_MS:  # more load makes no answer faster
            why = f"p50 of {fewest.callers} caller is {fewest.p50:.0f} ms"
            self.found.append(Found(peer=key, best=None, why_none=why))
            return
        self.found.append(
            search(
                lambda load: self._load(key, served, 1, load),
                peer=key,
                guess=most.qps,
                seconds=self.chosen.seconds,
            )
        )

    def _stages(self, served: Served) -> None:
        for callers in sorted({min(self.chosen.callers), max(self.chosen.callers)}):
            first = 2 * callers  # they find connections and caches cold
            count = self.chosen.requests + first
            start = self.asked % len(self.subject.requests)
            users = self.subject.requests[start:] + self.subject.requests[:start]
            answers = ask(served.address, users[:count], count=count, callers=callers)
            self.asked += count
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
            "machine": machine.describe(),
            "subject": self.subject.describe(),
            "peers": {key: f"{peer.name}: {peer.what}" for key, peer in PEERS.items()},
            "started": self.started,
            "differences": self.differences,
            "best": [to_json(p) for p in chosen],
            "ratios": ratios(chosen),
            "targets": targets(chosen, self.found, self.subject.items),
            "limit_ms": LIMIT_MS,
            "searches": [found_json(one) for one in self.found],
            "stages": self.stages,
            "points": [to_json(p) for p in self.points],
        }


def order(keys: Sequence[str]) -> list[str]:
    """Return the peers in the order of their runs: first the one that the others must equal."""
    return sorted(keys, key=lambda key: (key != REFERENCE, key))


def round_to(value: float) -> float:
    """Return the value with three digits behind the point."""
    return round(value, 3)


def found_json(found: Found) -> dict[str, Any]:
    """Return what results.json holds of a search."""

    def put(one: Point | None) -> dict[str, Any] | None:
        return to_json(one) if one else None

    probes = [to_json(probe) for probe in found.probes]
    return asdict(found) | {
        "best": put(found.best),
        "poisson": put(found.poisson),
        "probes": probes,
    }


def _short(argument: str) -> str:
    # What is kept must not name folders of the machine that it was measured on.
    path = Path(argument)
    return path.name if path.is_absolute() else argument


def keep(results: dict[str, Any], out: Path) -> None:
    """Write results.json."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Run everything and write results, pictures and page."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that peers are stopped
    arguments = sys.argv[1:] if argv is None else list(argv)
    chosen = options(arguments)
    subject = prepare(chosen.folder, chosen.release, chosen.items)
    peers = [key for key in chosen.peers if subject.allows(PEERS[key].precision)]
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        bench = Bench(chosen, subject, Path(scratch))
        for key in order(peers):
            bench.measure(key)
            keep(bench.results(arguments), chosen.out)  # a later peer may fail
    results = bench.results(arguments)
    draw_callers(best(bench.points), chosen.out / "callers.png")
    if bench.stages:
        draw_waterfall(bench.stages, chosen.out / "stages.png")
    page = write_page(chosen.out)
    for row in results["targets"]:
        print(said(row))
    print(f"results: {chosen.out}, page: {page}")


if __name__ == "__main__":
    main()
