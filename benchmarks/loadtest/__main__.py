"""Loads a running cluster with ghz and writes the report: `make loadtest`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.loadtest import ghz
from benchmarks.loadtest.ghz import Load, Measured
from benchmarks.loadtest.report import plot, render

ROOT = Path(__file__).resolve().parents[2]
SEED = 7
MAX_USERS = 2000


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(prog="make loadtest", description=__doc__)
    parser.add_argument("--ghz", type=Path, default=ROOT / ".tools/bin/ghz")
    parser.add_argument("--state-dir", type=Path, default=ROOT / ".demo/run")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/loadtest")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each load")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument(
        "--rates",
        type=float,
        nargs="+",
        help="offered calls a second; default: 25 to 150% of the best closed loop",
    )
    return parser.parse_args(argv)


def cluster(state_dir: Path) -> dict[str, Any]:
    """Return what `corerec serve` wrote: address, release_path, replicas by service."""
    file = state_dir / "cluster.json"
    if not file.exists():
        raise SystemExit(f"{file}: no cluster is running; `make demo` starts one")
    state: dict[str, Any] = json.loads(file.read_text())
    return state


def users(release: Path) -> list[str]:
    """Return ids of users of the release, a fixed random choice."""
    import polars as pl

    from corerec.release import Release

    ids = pl.read_parquet(Release.open(release, verify=False).file("users.parquet"))["user_id"]
    chosen: list[str] = random.Random(SEED).sample(ids.to_list(), min(MAX_USERS, len(ids)))
    return chosen


def degraded_counts(addresses: Iterable[str]) -> Counter[str] | None:
    """Return degraded answers so far by stage and reason; None when no metrics can be read."""
    counts: Counter[str] = Counter()
    read = False
    for address in addresses:
        try:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=2) as answer:
                text = answer.read().decode()
        except OSError:
            continue
        read = True
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "corerec_degraded_total":
                    what = f"without {sample.labels['stage']} ({sample.labels['reason']})"
                    counts[what] += int(sample.value)
    return counts if read else None


def loads(arguments: argparse.Namespace, done: list[Measured]) -> Iterator[Load]:
    """Yield every load; the open loops' rates follow from the closed loops' results."""
    for callers in arguments.callers:
        yield Load(callers=callers, seconds=arguments.seconds)
    best = max(measured.qps for measured in done)
    for rate in arguments.rates or [best * share for share in (0.25, 0.5, 0.75, 1.0, 1.5)]:
        yield Load(rate=max(1, round(rate)), seconds=arguments.seconds)


def main(argv: Sequence[str] | None = None) -> None:
    """Run every load and write the report."""
    arguments = options(argv)
    state = cluster(arguments.state_dir)
    metrics = [replica["metrics"] for replica in state["replicas"]["gateway"]]
    arguments.out.mkdir(parents=True, exist_ok=True)
    results: list[Measured] = []
    with tempfile.TemporaryDirectory() as scratch:
        requests = Path(scratch) / "requests.json"
        calls = [{"user_id": user, "page_size": 10} for user in users(Path(state["release_path"]))]
        requests.write_text(json.dumps(calls))
        warm = Load(callers=4, seconds=2)
        ghz.run(arguments.ghz, ROOT, state["address"], requests, warm)
        for load in loads(arguments, results):
            before = degraded_counts(metrics)
            measured, raw = ghz.run(arguments.ghz, ROOT, state["address"], requests, load)
            after = degraded_counts(metrics)
            if before is not None and after is not None:
                measured = replace(measured, degraded=dict(after - before))
            results.append(measured)
            file = arguments.out / f"{load.name}.json"
            file.write_text(json.dumps({"measured": asdict(measured), "ghz": raw}, indent=1))
            print(
                f"{load.name:12} {measured.qps:7.0f} answers/s  p50 {measured.p50:6.1f} ms  "
                f"p99 {measured.p99:6.1f} ms  {sum(measured.errors.values())} errors",
                flush=True,
            )
    where = (
        f"{len(calls)} users of release {Path(state['release']).name}; {arguments.seconds:g} s a "
        f"load; {os.cpu_count()} cores, {platform.machine()}, shared by cluster and generator."
    )
    (arguments.out / "report.md").write_text(render(results, where))
    plot(results, arguments.out / "latency.png")
    print(f"report: {arguments.out / 'report.md'}")


if __name__ == "__main__":
    main()
