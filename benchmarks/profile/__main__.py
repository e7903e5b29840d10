"""Shows where a request's time goes: `python -m benchmarks.profile`.

Starts a peer of the serving benchmark and, with one and with 32 callers, samples the stacks of
every service while it answers. Writes a flame graph for each load, in core-milliseconds an
answer, the waterfall of a request's parts from the answers' own reports, and profile.json. About
three minutes, beside training the release the first time. Needs root where the system lets no
process read another.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.profile import flame, stacks
from benchmarks.serving import machine
from benchmarks.serving.__main__ import CONFIG, ITEMS
from benchmarks.serving.answers import ask
from benchmarks.serving.breakdown import breakdown
from benchmarks.serving.load import Load, Point, point, run, to_json, write_requests
from benchmarks.serving.machine import ROOT
from benchmarks.serving.peers import PEERS, Served, running
from benchmarks.serving.pictures import draw_waterfall
from benchmarks.serving.processes import cpu_seconds, family
from benchmarks.serving.release import Subject, prepare

RESULTS = ROOT / "benchmarks/results/profile"
TOP = 25
"""Functions listed of each service."""


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile")
    add = parser.add_argument
    add("--quick", action="store_true", help="50,000 items, 3 s a load; results in .bench/quick")
    add("--items", type=int, help=f"of the benchmark's own world, default {ITEMS:,}")
    add("--release", type=Path, help="serve this release instead of the benchmark's own")
    add("--config", type=Path, help="deployment file; default: CoreRec's defaults")
    add("--peer", choices=[key for key in PEERS if not PEERS[key].textbook], default="a")
    add("--callers", type=int, nargs="+", default=[1, 32])
    add("--seconds", type=float, help="length of each load, default 10")
    add("--requests", type=int, help="requests for the waterfall, default 1000")
    add("--generator", type=Path, default=ROOT / ".tools/bin/loadgen")
    add("--folder", type=Path, default=ROOT / ".bench", help="keeps world, release, store")
    add("--out", type=Path, help="default benchmarks/results/profile, with --quick .bench/quick")
    chosen = parser.parse_args(argv)
    chosen.items = chosen.items or (50_000 if chosen.quick else ITEMS)
    chosen.seconds = chosen.seconds or (3.0 if chosen.quick else 10.0)
    chosen.requests = chosen.requests or (200 if chosen.quick else 1000)
    chosen.out = chosen.out or (chosen.folder / "quick" if chosen.quick else RESULTS)
    machine.need(chosen.generator)
    return chosen


class Profile:
    """One run over one peer."""

    def __init__(
        self, chosen: argparse.Namespace, subject: Subject, served: Served, scratch: Path
    ) -> None:
        self.chosen, self.served, self.scratch = chosen, served, scratch
        self.users = subject.requests
        self.requests = scratch / "requests.bin"
        write_requests(subject.requests, self.requests)
        self.services = {k: v for k, v in served.services.items() if v} or {
            "one process": [served.pid]
        }
        self.asked = 0

    def load(self, load: Load) -> Point:
        """Run a load with users that were not asked for yet."""
        load = replace(load, first=self.asked)
        calls, cpu, seconds = run(self.chosen.generator, self.served, self.requests, load)
        self.asked += len(calls["code"] or [])
        return point(calls, load, cpu, seconds, peer=self.chosen.peer, round=1)

    def sampled(self, callers: int, py_spy: Path) -> dict[str, Any]:
        """Sample one closed loop and draw its flame graph; return what is kept of it."""
        folder = self.scratch / str(callers)
        folder.mkdir()
        seconds, pids = self.chosen.seconds, [pid for ids in self.services.values() for pid in ids]
        plain = self.load(Load(callers=callers, seconds=seconds))
        before = self._cpu()
        # The samplers need a second to read symbols, and end before the load does.
        children = stacks.record(py_spy, pids, folder, seconds)
        met = self.load(Load(callers=callers, seconds=seconds + 2))
        after = self._cpu()
        stacks.finish(children, folder, seconds)
        core_ms = {name: 1e3 * (after[name] - before[name]) / met.ok for name in self.services}
        found = stacks.read(self.services, folder)
        title = (
            f"{callers} at once, {sum(core_ms.values()):.2f} core-ms an answer: "
            f"{', '.join(f'{name} {ms:.2f}' for name, ms in core_ms.items())}"
        )
        print(title, flush=True)
        flame.draw(flame.tree(found, core_ms), title, self.chosen.out / f"flame-{callers}.svg")
        return {
            "callers": callers,
            "without_sampling": to_json(plain),
            "while_sampled": to_json(met),
            "core_ms_per_answer": {name: round(ms, 3) for name, ms in core_ms.items()},
            "samples": {name: count.total() for name, count in found.items()},
            "own_core_ms": {name: _top(found[name], core_ms[name]) for name in self.services},
        }

    def waterfall(self) -> list[dict[str, Any]]:
        """Return the parts of a request, for each number of callers."""
        stages = []
        for callers in self.chosen.callers:
            first = 2 * callers  # they find connections cold
            start = self.asked % len(self.users)
            users = (self.users[start:] + self.users[:start])[: self.chosen.requests + first]
            answers = ask(self.served.address, users, count=len(users), callers=callers)
            self.asked += len(users)
            stages.append(breakdown(answers[first:], callers))
        return stages

    def _cpu(self) -> dict[str, float]:
        return {
            name: sum(cpu_seconds(family(pid)) for pid in pids)
            for name, pids in self.services.items()
        }


def _top(counts: stacks.Stacks, core_ms: float) -> dict[str, float]:
    each = core_ms / max(counts.total(), 1)
    return {name: round(n * each, 4) for name, n in stacks.own(counts).most_common(TOP)}


def main(argv: Sequence[str] | None = None) -> None:
    """Run everything and write pictures and profile.json."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the peer is stopped
    arguments = sys.argv[1:] if argv is None else list(argv)
    chosen = options(arguments)
    py_spy = stacks.find_py_spy()
    subject = prepare(chosen.folder, chosen.release, chosen.items)
    config = chosen.config.read_text() if chosen.config else CONFIG
    chosen.out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="profile-") as scratch,
        running(chosen.peer, subject, config) as served,
    ):
        profile = Profile(chosen, subject, served, Path(scratch))
        machine.settle()
        profile.load(Load(callers=8, seconds=min(3.0, chosen.seconds)))  # warm
        stages = profile.waterfall()
        loads = [profile.sampled(callers, py_spy) for callers in chosen.callers]
    draw_waterfall(stages, chosen.out / "waterfall.png")
    results = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": shlex.join(["python", "-m", "benchmarks.profile", *arguments]),
        "machine": machine.describe(),
        "subject": subject.describe(),
        "peer": chosen.peer,
        "stages": stages,
        "loads": loads,
    }
    (chosen.out / "profile.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"results: {chosen.out}")


if __name__ == "__main__":
    main()
