"""Writes what a quality benchmark found: one JSON file, and a table of ours beside the published.

Every benchmark of this folder is a `Benchmark`, a function from a seed to a `SeedRun`, and `main`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("corerec", "numpy", "torch", "numba", "faiss-cpu", "ray", "implicit")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What is measured, and what is known of it."""

    name: str
    """The stem of the JSON file."""
    data: str
    protocol: str
    published: Mapping[str, Mapping[str, float]]
    """Metrics by the name of a published model."""
    required: Mapping[str, float]
    aim: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SeedRun:
    """One training and its metrics on the test part."""

    seed: int
    metrics: Mapping[str, float]
    epochs: int
    """Epochs trained."""
    best_epoch: int
    """Epoch that was kept, from 1."""
    seconds: float
    """Of training alone, without evaluation where it can be told apart."""
    samples_per_second: float
    peak_memory_bytes: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)


def main(
    benchmark: Benchmark,
    run: Callable[[int], SeedRun],
    config: Any,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    arguments: argparse.Namespace | None = None,
) -> Path:
    """Run each seed, print its metrics, write the report, and return its path.

    `config` is a dataclass or a mapping. `arguments` are those of `parser`, read where absent.
    """
    given = parser(benchmark.name, seeds).parse_args() if arguments is None else arguments
    runs: list[SeedRun] = []
    for seed in (int(text) for text in given.seeds.split(",")):
        reset_peak_memory()
        started = time.perf_counter()
        found = run(seed)
        if not found.peak_memory_bytes:
            found = SeedRun(**{**found.__dict__, "peak_memory_bytes": peak_memory_bytes()})
        runs.append(found)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in found.metrics.items())
        print(f"seed {seed}: {shown} ({time.perf_counter() - started:.0f} s)", flush=True)
        _write(benchmark, runs, config, given.out)  # at once: the next seed may be cut off
    return write_report(benchmark, runs, config, given.out)


def parser(name: str, seeds: Sequence[int] = (0, 1, 2)) -> argparse.ArgumentParser:
    """Return the arguments that every benchmark takes; a benchmark may add its own."""
    found = argparse.ArgumentParser(description=f"measure {name} and write its report")
    found.add_argument("--seeds", default=",".join(map(str, seeds)), help="comma-separated")
    found.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    return found


def write_report(benchmark: Benchmark, runs: Sequence[SeedRun], config: Any, out: Path) -> Path:
    """Write `<out>/quality/<name>.json`, print the table, and return the path."""
    values, path = _write(benchmark, runs, config, out)
    _show(benchmark, values, path)
    return path


def _write(
    benchmark: Benchmark, runs: Sequence[SeedRun], config: Any, out: Path
) -> tuple[dict[str, Any], Path]:
    by_metric = {
        name: [float(run.metrics[name]) for run in runs]
        for name in runs[0].metrics
        if all(name in run.metrics for run in runs)
    }
    mean = {name: statistics.fmean(values) for name, values in by_metric.items()}
    values = asdict(benchmark) | {
        "seeds": [asdict(run) for run in runs],
        "mean": mean,
        "spread": {name: max(values) - min(values) for name, values in by_metric.items()},
        "config": _plain(config),
        "machine": machine(),
        "command": command(),
    }
    path = out / "quality" / f"{benchmark.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2, default=str) + "\n")
    return values, path


def _show(benchmark: Benchmark, values: Mapping[str, Any], path: Path) -> None:
    listed = (*benchmark.published.values(), benchmark.required)
    known = [m for m in values["mean"] if any(m in row for row in listed)]
    metrics = known or list(values["mean"])
    table = Table()
    table.add_column("")
    for metric in metrics:
        table.add_column(metric, justify="right")
    for name, row in benchmark.published.items():
        table.add_row(name, *(_figure(row.get(m)) for m in metrics))
    for name, row in (("required", benchmark.required), ("aim", benchmark.aim)):
        if row:
            table.add_row(name, *(_figure(row.get(m)) for m in metrics))
    ours = [f"{values['mean'][m]:.4f} ± {values['spread'][m] / 2:.4f}" for m in metrics]
    table.add_row(f"ours, {len(values['seeds'])} seeds", *ours, style="bold")
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(f"{benchmark.name}: {benchmark.data}, {benchmark.protocol}", soft_wrap=True)
    console.print(table)
    for metric, least in benchmark.required.items():
        if metric in values["mean"]:
            gap = values["mean"][metric] - least
            better = -gap if "loss" in metric else gap
            word = "reached" if better >= 0 else "MISSED"
            console.print(f"{metric}: {word}, {gap:+.4f} to the required {least:.4f}")
    console.print(f"written to {path}", soft_wrap=True)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _plain(config: Any) -> Any:
    return asdict(config) if hasattr(config, "__dataclass_fields__") else dict(config)


def reset_peak_memory() -> None:
    """Forget the highest memory so far, so that each run has its own peak (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # the peak is then the process's, never too low
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_bytes() -> int:
    """Return the highest resident memory of this process since `reset_peak_memory`."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def machine() -> dict[str, Any]:
    """Return what it ran on: processor, threads, memory, versions and the commit."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": gpu,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": _commit(),
    }


def command() -> str:
    """Return the line that repeats this run, from the root of the repository."""
    script = Path(sys.argv[0]).resolve()
    shown = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    return " ".join(["python", str(shown), *sys.argv[1:]])


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    found = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    line = ("git", "rev-parse", "--short=12", "HEAD")
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
