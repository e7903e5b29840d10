"""Sets what each stage takes against what this machine allows: `python -m benchmarks.roofline`.

Counts operations and bytes of a request over a release, measures this machine's ceilings on one
core and the stages' cores in this process, and writes docs/roofline.md's tables,
benchmarks/results/roofline/roofline.json and the picture. About two minutes, beside training the
release the first time. Run it after `make bench`, whose CPU an answer it takes for the wire.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.roofline import ceilings, counts, ours
from benchmarks.roofline.counts import Work
from benchmarks.roofline.report import draw, render
from benchmarks.serving import machine
from benchmarks.serving.__main__ import ITEMS
from benchmarks.serving.machine import ROOT
from benchmarks.serving.release import Subject, prepare
from benchmarks.serving.report import RESULTS as SERVING
from benchmarks.serving.report import fill

RESULTS = ROOT / "benchmarks/results/roofline"
PAGE = ROOT / "docs/roofline.md"
MARKERS = ("<!-- roofline:begin -->", "<!-- roofline:end -->")
TOGETHER = (1, 32)
ALONE = 64
"""Users whose requests are measured alone."""
STAGES = {
    "retrieve": ("two_tower_encode", "two_tower_search"),
    "rank": ("features", "score"),
    "rerank": ("rules",),
}
"""The counted steps of each stage's core."""


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.roofline")
    add = parser.add_argument
    add("--items", type=int, default=ITEMS, help="of the benchmark's own world")
    add("--release", type=Path, help="count this release instead of the benchmark's own")
    add("--users", type=int, default=1024, help="whose requests are measured, each once")
    add("--folder", type=Path, default=ROOT / ".bench", help="keeps world, release, store")
    add("--out", type=Path, default=RESULTS, help="elsewhere, the page stays as it is")
    return parser.parse_args(argv)


def works(subject: Subject, cores: ours.Cores, *, half: bool) -> list[Work]:
    """Return what one request needs of every stage."""
    file = subject.release.file
    tower = json.loads(file("two_tower.json").read_text())["header"]["config"]
    index = json.loads(file("two_tower_index.json").read_text())
    items, dim = index["count"], index["dim"]
    tables, model = cores.ranking._tables, cores.ranking._ranker.model
    # Of a candidate: vector, values, birth, and how popular it is, twice.
    row = 4 * dim + tables.values[0].nbytes + 8 + 8
    found = [
        counts.encode(tower, items),
        counts.search(index, ours.CANDIDATES),
        counts.features(row, dim, ours.CANDIDATES, items),
        counts.rank(model, ours.CANDIDATES, items, "fp32"),
    ]
    if half:
        found.append(counts.rank(model, ours.CANDIDATES, items, "bf16"))
    return [*found, counts.rerank(ours.RANKED, ours.CHOSEN, dim, items)]


def stage_rows(
    found: Sequence[Work], limits: dict[str, Any], taken: ours.Taken, together: int
) -> list[dict[str, Any]]:
    """Return each stage's work, what the ceilings allow and what it took, so many together."""
    rows = []
    for work in found:
        step = work.step + ("_bf16" if work.kind == "bf16" else "")
        # Of a batch's steps 0 is less than a microsecond a request.
        took = max(taken.steps.get(step, 0.0), 1e-4)
        rows.append(
            {
                "stage": work.stage,
                "kind": work.kind,
                "together": together,
                "operations": work.operations,
                "bytes": work.bytes,
                "compute_ms": 1e3 * work.operations / limits["peaks"][work.kind],
                "read_ms": 1e3 * work.bytes / limits["reads"][name_of(work)]["rate"],
                "ours_ms": took,
                "library_ms": 1e3 * ceilings.library_seconds(work.products, work.kind, together),
            }
        )
    return rows


def name_of(work: Work) -> str:
    """Return what a stage's reading is called among the ceilings."""
    return work.stage + (" bf16" if work.kind == "bf16" else "")


def measure_ceilings(found: Sequence[Work]) -> dict[str, Any]:
    """Return what one core can do at most, in products and in reading as the stages read."""
    return {
        "peaks": {kind: ceilings.peak(kind) for kind in ("fp32", "bf16", "int8")},
        "stream": ceilings.read_rate(1 << 30, 1 << 24),
        "reads": {
            name_of(work): {
                "run": work.run,
                "table": work.table,
                "rate": ceilings.read_rate(work.table, work.run),
            }
            for work in found
        },
    }


def greater(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return the greater of two measurements of each ceiling: what disturbs one only lowers it."""
    reads = other["reads"]
    return {
        "peaks": {kind: max(rate, other["peaks"][kind]) for kind, rate in one["peaks"].items()},
        "stream": max(one["stream"], other["stream"]),
        "reads": {
            name: row | {"rate": max(row["rate"], reads[name]["rate"])}
            for name, row in one["reads"].items()
        },
    }


def wire_rows(taken: dict[int, ours.Taken], cpu: str) -> list[dict[str, Any]]:
    """Return what bare sockets take for a request's four round trips, and what the cluster does.

    The cluster's part is its processes' CPU an answer in `make bench`, without what the stages'
    cores take here; none when that run was on another machine.
    """
    path = SERVING / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    if results.get("machine", {}).get("cpu") != cpu or "targets" not in results:
        return []
    ways = counts.wire(ours.CANDIDATES, ours.RANKED, ours.CHOSEN, ours.EVENTS)
    rows = []
    for point in results["best"]:
        callers = point["callers"]
        if point["peer"] != "a" or callers not in taken:
            continue
        # Many callers' messages can share a round trip; the caller's own cannot.
        joined = [(sent * callers, answer * callers, callers) for sent, answer in ways[1:]]
        trips = [(*ways[0], 1), *joined]
        core_ms = sum(1e3 * ceilings.round_trip(s, a) / share for s, a, share in trips)
        cores = sum(taken[callers].stages[name] for name in STAGES)
        rows.append(
            {
                "callers": callers,
                "bytes": sum(map(sum, ways)),
                "ceiling_ms": core_ms,
                "ours_ms": point["own_cpu_ms_per_request"] - cores,
            }
        )
    return rows


def rest_rows(taken: ours.Taken, together: int) -> list[dict[str, Any]]:
    """Return each core's whole call beside its counted steps."""
    return [
        {
            "stage": stage,
            "together": together,
            "core_ms": taken.stages[stage],
            "counted_ms": sum(taken.steps.get(step, 0.0) for step in steps),
        }
        for stage, steps in STAGES.items()
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write everything."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    chosen = options(arguments)
    subject = prepare(chosen.folder, chosen.release, chosen.items)
    cores = ours.Cores.load(str(subject.release.path.resolve()))
    half = cores.ranking.in_precision("bf16") if ceilings.peak("bf16") else None
    found = works(subject, cores, half=half is not None)
    users = ours.users_of(subject, chosen.users)
    taken: dict[int, ours.Taken] = {}
    with torch.inference_mode():
        limits = measure_ceilings(found)
        for together in TOGETHER:
            if half:
                half.warm()
            # Others each time: what is kept of a user is no measure of its work.
            part = users[:ALONE] if together == 1 else users[ALONE:]
            taken[together] = ours.measure(cores, part, together, half)
        limits = greater(limits, measure_ceilings(found))
        rows = [row for n in TOGETHER for row in stage_rows(found, limits, taken[n], n)]
    described = machine.describe()
    results = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": shlex.join(["python", "-m", "benchmarks.roofline", *arguments]),
        "machine": described,
        "subject": subject.describe(),
        "ceilings": limits,
        "counts": [{"stage": w.stage, "kind": w.kind, "what": w.what} for w in found],
        "stages": sorted(rows, key=lambda row: [w.stage for w in found].index(row["stage"])),
        "rest": [row for n in TOGETHER for row in rest_rows(taken[n], n)],
        "wire": wire_rows(taken, described["cpu"]),
    }
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "roofline.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(results, chosen.out / "roofline.png")
    block = render(results)
    if chosen.out.resolve() == RESULTS:
        PAGE.write_text(fill(PAGE.read_text(), block, *MARKERS))
    print(block)


if __name__ == "__main__":
    main()
