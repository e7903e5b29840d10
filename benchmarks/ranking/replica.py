"""Measures one ranking replica over gRPC: pairs a second, and how long callers wait.

    python -m benchmarks.ranking.replica [--precision bf16] [--items 1000000] [--seconds 2]

The replica is a process as `python -m ranking_svc` runs, without Ray, over a release with random
weights (`world.py`); its clients are processes with the stage client that the gateway has. Each
caller asks again as soon as it is answered. Found for each number of candidates: pairs a second by
callers, and the most at which 99% of answers take at most 10 ms. Writes
benchmarks/results/ranking/replica_DEVICE_PRECISION.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvloop

from benchmarks.quality.report import command, machine
from benchmarks.ranking.world import Folder, make_entries, write_release
from corerec.ranking.core import RankingCore
from corerec.serving.budget import Budget
from corerec.serving.config import StageConfig
from corerec.serving.contracts import RANK
from corerec.serving.endpoints import StaticEndpoints
from corerec.serving.metrics import Metrics
from corerec.serving.process import stage_process
from corerec.serving.stage_client import RemoteStage
from ranking_svc.servicer import add

RESULTS = Path(__file__).parents[1] / "results" / "ranking"
WITHIN_MS = 10.0
CALLERS = (1, 8, 16, 32, 48, 64)
CANDIDATES = (500, 2000, 8000)
CONFIG = {
    "cpu": StageConfig(log_level="ERROR"),
    "cuda": StageConfig(
        log_level="ERROR", max_batch=256, max_batch_weight=1 << 17, inline_ms=0, max_queue=4096,
        max_message_bytes=64 << 20,
    ),
}  # fmt: skip
"""How a replica is set for a device: a GPU has large batches, and none in the event loop, which
goes on reading while the GPU computes."""


async def serve(folder: Path, device: Any, precision: Any) -> None:
    """Serve a release until killed; say where on standard output."""

    def load() -> RankingCore:
        core = RankingCore.load(Folder(folder), device=device, precision="fp32")
        # Random weights have passed no gate.
        return core if precision == "fp32" else core.in_precision(precision)

    process = stage_process(CONFIG[device], RANK, name="ranking", load=load, add=add)
    await process.start()
    print(process.address, flush=True)
    await asyncio.Event().wait()


async def ask(address: str, items: int, seed: int) -> None:
    """Measure for each line of standard input, `callers candidates seconds`, and print it."""
    stage: Any = RemoteStage(
        RANK, StaticEndpoints([address]), Metrics(), max_in_flight=4, max_batch=64,
        max_weight=1 << 16,
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    entries = {size: cycle(make_entries(64, items, rng, size)) for size in CANDIDATES}
    users = cycle(range(10_000))
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        callers, candidates, seconds = line.split()
        took: list[float] = []
        end = time.perf_counter() + float(seconds)

        async def caller(source: Any, end: float, took: list[float]) -> None:
            while (begin := time.perf_counter()) < end:
                entry = next(source)
                user = replace(entry.user, user_id=f"u{next(users)}")
                await stage.call("benchmark", replace(entry, user=user), Budget(10.0))
                took.append(time.perf_counter() - begin)

        source = entries[int(candidates)]
        await asyncio.gather(*(caller(source, end, took) for _ in range(int(callers))))
        print(json.dumps([round(one * 1e6) for one in took]), flush=True)


class Client:
    """A process of callers."""

    def __init__(self, address: str, items: int, seed: int) -> None:
        self.process = child("--ask", address, str(items), str(seed))

    def wait(self) -> None:
        """Return when it is ready to ask."""
        if read(self.process) != "ready":
            raise SystemExit("a client did not start")

    def begin(self, callers: int, candidates: int, seconds: float) -> None:
        """Let so many ask."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{callers} {candidates} {seconds}\n")
        self.process.stdin.flush()

    def found(self) -> list[int]:
        """Return what its callers waited, microseconds."""
        found: list[int] = json.loads(read(self.process))
        return found


def child(*words: str) -> subprocess.Popen[str]:
    """Start this module again."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.ranking.replica", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def read(process: subprocess.Popen[str]) -> str:
    """Return the next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def cpu_seconds(pid: int) -> float:
    """Return core-seconds of a process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def measure(
    server: int, clients: list[Client], callers: int, candidates: int, seconds: float
) -> dict[str, Any]:
    """Return what callers find, spread over at most so many clients."""
    used = clients[:callers]
    for warm in (True, False):
        spent, begin = cpu_seconds(server), time.perf_counter()
        for place, client in enumerate(used):
            own = len(range(place, callers, len(used)))
            client.begin(own, candidates, 0.5 if warm else seconds)
        waited = np.array([one for client in used for one in client.found()]) / 1e3
        wall, spent = time.perf_counter() - begin, cpu_seconds(server) - spent
    return {
        "callers": callers,
        "requests_per_second": round(len(waited) / wall),
        "pairs_per_second": round(len(waited) * candidates / wall),
        "ms_p50": round(float(np.percentile(waited, 50)), 2),
        "ms_p99": round(float(np.percentile(waited, 99)), 2),
        "replica_cores": round(spent / wall, 2),
    }


def main() -> None:
    """Read the command line; be a child, or start the children and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--clients", type=int, default=6, help="processes that ask")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--small", action="store_true", help="the network that `train` makes")
    parser.add_argument("--serve", nargs=3, default=(), help=argparse.SUPPRESS)
    parser.add_argument("--ask", nargs=3, default=(), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        folder, device, precision = given.serve
        uvloop.run(serve(Path(folder), device, precision))
    elif given.ask:
        address, items, seed = given.ask
        uvloop.run(ask(address, int(items), int(seed)))
    else:
        run(given)


def run(given: argparse.Namespace) -> None:
    """Start the replica and its clients, measure, write."""
    children: list[subprocess.Popen[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        write_release(Path(folder), given.items, 20_000, rng, large=not given.small)
        try:
            children.append(server := child("--serve", folder, given.device, given.precision))
            if not (address := read(server)):
                raise SystemExit("the replica did not start")
            clients = [Client(address, given.items, seed) for seed in range(given.clients)]
            children += [client.process for client in clients]
            for client in clients:
                client.wait()
            found = {
                candidates: [
                    measure(server.pid, clients, callers, candidates, given.seconds)
                    for callers in CALLERS
                ]
                for candidates in CANDIDATES
            }
        finally:
            for process in children:
                process.kill()
                process.wait()
    report(given, found)


def report(given: argparse.Namespace, found: dict[int, list[dict[str, Any]]]) -> None:
    """Print the table and write the JSON."""
    content = {
        "what": "one ranking replica over gRPC, without Ray; closed loop",
        "command": command(),
        "machine": machine(),
        "device": torch.cuda.get_device_name() if given.device == "cuda" else "cpu",
        "torch": torch.__version__,
        "precision": given.precision,
        "network": "default" if given.small else "large",
        "items": given.items,
        "clients": given.clients,
        "most_pairs_per_second_with_p99_of_10_ms": {
            candidates: max(
                (one["pairs_per_second"] for one in many if one["ms_p99"] <= WITHIN_MS), default=0
            )
            for candidates, many in found.items()
        },
        "by_candidates": found,
    }
    for candidates, many in found.items():
        for one in many:
            print(
                f"{candidates:5d} candidates, {one['callers']:3d} callers: "
                f"{one['requests_per_second']:6d} requests/s, "
                f"{one['pairs_per_second'] / 1e6:6.2f} M pairs/s, p50 {one['ms_p50']:6.2f} ms, "
                f"p99 {one['ms_p99']:6.2f}, {one['replica_cores']:.2f} cores"
            )
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"replica_{given.device}_{given.precision}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
