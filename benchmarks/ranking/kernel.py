"""Measures the ranking network: plain in eager torch, and folded, in pairs a second.

    python -m benchmarks.ranking.kernel [--items 1000000] [--seconds 1]

Plain is given its rows ready; folded gathers the items' inputs from a table of a million. Each
process is pinned to a core. Writes benchmarks/results/ranking/kernel.json. `gpu.py` is for GPUs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import torch

from benchmarks.ranking.counts import DEFAULT, LARGE, Network, bytes_per_pair, count, shapes
from benchmarks.ranking.pieces import best_seconds, products, rows_of, steps_of
from corerec.ranking.fold import fold
from corerec.ranking.kernel import CpuKernel, precision_here
from corerec.ranking.precision import PRECISIONS, Precision

ROOT = Path(__file__).resolve().parents[2]
CANDIDATES, REQUESTS = 500, 8
PEAK_ROUNDS, PEAK_CALLS = 6, 12
NETWORKS = {network.name: network for network in (LARGE, DEFAULT)}
Calls = dict[str, Callable[[], object]]


def cpu_calls(network: Network, items: int) -> tuple[Calls, dict[Precision, CpuKernel]]:
    """Return what is measured by name: each scores REQUESTS requests, or one where it says so."""
    dcn = network.make()
    folded = fold(dcn, network.users)
    torch.manual_seed(os.getpid())
    rows = torch.randn(REQUESTS * CANDIDATES, dcn.width) * 0.3
    half, half_rows = network.make().bfloat16(), rows.bfloat16()
    calls: Calls = {
        "plain eager fp32": lambda: dcn(rows),
        "plain eager bf16": lambda: half(half_rows),
    }
    user = torch.randn(REQUESTS, network.users) * 0.3
    wanted = torch.randint(0, items, (REQUESTS, CANDIDATES))
    pairs = torch.randn(network.pairs, REQUESTS, CANDIDATES) * 0.3
    one = user[:1], wanted[:1], pairs[:, :1].contiguous()
    inputs = torch.randn(items, network.items) * 0.3
    kernels: dict[Precision, CpuKernel] = {}
    for precision in PRECISIONS:
        if precision_here(precision) != precision:
            continue
        kernel = CpuKernel(folded, network.items, precision, threads=1)
        table = kernel.table(items)
        kept = kernel.items(inputs)
        table[:, : kept.shape[1]] = kept
        kernels[precision] = kernel

        def call(kernel: CpuKernel = kernel, table: torch.Tensor = table) -> object:
            return kernel(user, table, wanted, pairs)

        def lone(kernel: CpuKernel = kernel, table: torch.Tensor = table) -> object:
            return kernel(one[0], table, one[1], one[2])

        calls[f"folded {precision}"] = call
        calls[f"folded {precision}, one request a call"] = lone
    return calls, kernels


def rates(calls: Calls, seconds: float, ready: Callable[[], object]) -> dict[str, Any]:
    """Return pairs a second of each, by the clock and by processor time."""
    found = {}
    for name, call in calls.items():
        pairs = CANDIDATES * (1 if "one request" in name else REQUESTS)
        for _ in range(3):
            call()
        ready()
        done, least = 0, float("inf")
        begin, spent = time.perf_counter(), time.process_time()
        while time.perf_counter() - begin < seconds:
            start = time.thread_time()
            call()
            least = min(least, time.thread_time() - start)
            done += pairs
        wall, spent = time.perf_counter() - begin, time.process_time() - spent
        found[name] = {
            "pairs_per_second": round(done / wall),
            "pairs_per_cpu_second": round(done / spent),
            "best_call_pairs_per_second": round(pairs / least),
        }
    return found


def work(core: int, given: Any, barrier: Any, results: Any) -> None:
    """Measure in a process of its own, on one core."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})
    torch.set_num_threads(1)
    with torch.inference_mode():
        calls, _ = cpu_calls(NETWORKS[given.network], given.items)
        results.put(rates(calls, given.seconds, barrier.wait))


def on_cores(count: int, given: argparse.Namespace) -> dict[str, Any]:
    """Return the rates of so many processes at once, added up."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(count), context.Queue()
    processes = [
        context.Process(target=work, args=(core, given, barrier, results)) for core in range(count)
    ]
    for process in processes:
        process.start()
    found = [results.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    return {
        name: {key: sum(one[name][key] for one in found) for key in found[0][name]}
        for name in found[0]
    }


def against_peak(network: Network, given: argparse.Namespace) -> dict[str, Any]:
    """Return where a pair's time goes on a core, and what peaks at the same shapes would take.

    All are timed in turns, and the least of each counts: the core's clock changes meanwhile.
    """
    calls, kernels = cpu_calls(network, given.items)
    folded = fold(network.make(), network.users)
    cost, found = count(network, CANDIDATES), {}
    kernels.pop("int8")  # its steps are those of another
    for precision, kernel in kernels.items():
        half = precision == "bf16"
        config = kernel.memory()[1].config if half else None
        made = [products(k, n, half=half, config=config) for _, k, n in shapes(folded)]
        steps = steps_of(kernel, folded)
        least: list[dict[str, float]] = [dict.fromkeys(each, float("inf")) for each in made]
        own = float("inf")
        for _ in range(PEAK_ROUNDS):
            for each, best in zip(made, least, strict=True):
                for kind, call in each.items():
                    best[kind] = min(best[kind], best_seconds(call, PEAK_CALLS) / rows_of(kind))
            own = min(own, best_seconds(steps, PEAK_CALLS) / rows_of("steps"))
        seconds = {
            "of_products_at_peak": sum(min(t["library"], t["product"]) for t in least),
            "of_products_by_library": sum(t["library"] for t in least),
            "of_inner_loop": sum(min(t.values()) for t in least),
        }
        whole = rates({"": calls[f"folded {precision}"]}, given.seconds, lambda: None)[""]
        pair = 1 / whole["best_call_pairs_per_second"]
        peak = seconds["of_products_at_peak"]
        found[precision] = {
            "nanoseconds_per_pair": round(pair * 1e9, 1),
            "of_steps": round(own * 1e9, 1),
            **{name: round(value * 1e9, 1) for name, value in seconds.items()},
            "steps_against_peak": round(peak / own, 3),
            "steps_against_library": round(seconds["of_products_by_library"] / own, 3),
            "steps_against_inner_loop": round(seconds["of_inner_loop"] / own, 3),
            "whole_against_peak": round(peak / pair, 3),
            "gflop_per_second": round(cost["operations_per_pair_in_all"] / pair / 1e9, 1),
            "operations_per_byte": round(
                cost["operations_per_pair_in_all"] / bytes_per_pair(network, precision), 1
            ),
            "peaks_gflop_per_second": [
                {"step": name, "k": depth, "n": columns}
                | {kind: round(2e-9 * depth * columns / t, 1) for kind, t in each.items()}
                for (name, depth, columns), each in zip(shapes(folded), least, strict=True)
            ],
        }
    return found


def int8_products(network: Network) -> dict[str, Any]:
    """Return what the library's products take a pair in int8 and bf16, without anything else."""
    total = {"int8": 0.0, "bf16": 0.0}
    for _, depth, columns in shapes(fold(network.make(), network.users)):
        wide = max(columns, 16) // 8 * 8
        deep = depth // 8 * 8
        left, right = torch.ones(504, deep), torch.ones(deep, wide)
        for kind, dtype, multiply in (
            ("int8", torch.int8, torch._int_mm),
            ("bf16", torch.bfloat16, torch.mm),
        ):
            given = left.to(dtype), right.to(dtype)
            total[kind] += best_seconds(lambda g=given, m=multiply: m(*g)) / 504
    return {f"{kind}_nanoseconds_per_pair": round(t * 1e9, 1) for kind, t in total.items()}


def machine() -> dict[str, Any]:
    """Return what it ran on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = {word for line in lines if line.startswith("flags") for word in line.split()}
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "instructions": sorted(flags & {"avx2", "avx512f", "avx512_vnni", "amx_bf16", "amx_int8"}),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numba": numba.__version__,
    }


def measure_cpu(given: argparse.Namespace) -> dict[str, Any]:
    """Return the report of a CPU."""
    found: dict[str, Any] = {}
    for name, network in NETWORKS.items():
        given.network = name
        found[name] = {"counts": count(network, CANDIDATES), "one_core": on_cores(1, given)}
        if len(os.sched_getaffinity(0)) > 1:
            found[name]["two_cores"] = on_cores(2, given)
        torch.set_num_threads(1)
        with torch.inference_mode():
            found[name]["against_peak"] = against_peak(network, given)
            found[name]["library_products"] = int8_products(network)
    return found


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/ranking")
    given = parser.parse_args()
    before = machine()
    found = measure_cpu(given)
    report = {
        "what": f"{CANDIDATES} candidates a request, {REQUESTS} requests a call",
        "items": given.items,
        "machine": before,
        "command": " ".join(["python -m benchmarks.ranking.kernel", *sys.argv[1:]]),
        "networks": found,
    }
    path = given.out / "kernel.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
