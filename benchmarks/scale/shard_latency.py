"""Measures how long one shard of a million items takes to answer over gRPC, search by search.

    python benchmarks/scale/shard_latency.py [--queries 8000] [--load 0.3]

The shard is the one that serves: ShardCore behind the shard's own server, in a process of its own.
Its vectors and queries are those of benchmarks/retrieval/vectors.py, from a trained two-tower. The
front's client asks at random moments (Poisson) so that the shard is busy the given share of its
time; a latency is from the call to its answer in the front. Writes
benchmarks/results/scale/shard_latency.json, which simulate.py draws from.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks" / "quality"))
sys.path.insert(0, str(ROOT / "benchmarks" / "retrieval"))
RESULT = ROOT / "benchmarks/results/scale/shard_latency.json"
KIND, RELEASE, K, EXCLUDED = "two_tower", "benchmark", 500, 50


def serve() -> None:
    """Run the shard until SIGTERM; one JSON line says where it listens."""
    import uvloop
    from vectors import load

    from corerec.retrieval.build import build_index
    from corerec.retrieval.popular import PopularList
    from corerec.retrieval.shard import ShardCore
    from corerec.retrieval.sources import IndexedVectors
    from corerec.serving.contracts import SEARCH
    from corerec.serving.process import serve_until_signalled, stage_process
    from corerec.stages import Source
    from retrieval_svc.config import ShardConfig
    from retrieval_svc.servicer import add_search

    def core() -> ShardCore:
        items, queries = load()
        vectors = np.array(items)
        index = build_index(vectors, model_id="benchmark", queries=queries[:1000])
        popular = np.arange(1000, dtype=np.int64)
        return ShardCore(
            release=RELEASE,
            sources=[
                IndexedVectors(
                    kind=KIND,
                    source=Source.TWO_TOWER,
                    vectors=vectors,
                    index=index,
                    model_id="benchmark",
                )
            ],
            popular=PopularList(popular, np.linspace(1, 0.1, 1000, dtype=np.float32)),
            item_count=len(vectors),
        )

    process = stage_process(
        ShardConfig(port=0, metrics_port=0), SEARCH, name="shard", load=core, add=add_search
    )
    uvloop.run(
        serve_until_signalled(process, lambda: print(json.dumps(process.metadata()), flush=True))
    )


async def ask(address: str, count: int, load: float) -> dict[str, Any]:
    """Return every search's latency in microseconds, and how they were asked."""
    from vectors import load as load_vectors

    from corerec.serving.budget import Budget
    from corerec.serving.contracts import SEARCH
    from corerec.serving.endpoints import StaticEndpoints
    from corerec.serving.metrics import Metrics
    from corerec.serving.stage_client import RemoteStage
    from corerec.stages import SearchEntry

    stage = RemoteStage(SEARCH, StaticEndpoints([address]), Metrics())
    _, queries = load_vectors()
    rng = np.random.default_rng(0)
    rows = rng.integers(1000, len(queries), count)
    while not stage.is_up:  # noqa: ASYNC110  # a client has no event for it
        await asyncio.sleep(0.05)

    async def one(row: int) -> float:
        entry = SearchEntry(
            queries={KIND: queries[row]}, k=K, excluded=rng.integers(0, 1_000_000, EXCLUDED)
        )
        begin = time.perf_counter()
        result = await stage.call(RELEASE, entry, Budget(10.0))
        assert len(result.lists[0].numbers) == K
        return (time.perf_counter() - begin) * 1e6

    for row in rows[:500]:  # connections and caches warm up
        await one(int(row))
    alone = [await one(int(row)) for row in rows[:4000]]
    pause = float(np.median(alone)) / 1e6 / load
    begin, tasks = time.perf_counter(), []
    for at, row in zip(np.cumsum(rng.exponential(pause, count)), rows, strict=True):
        await asyncio.sleep(max(0.0, begin + at - time.perf_counter()))
        tasks.append(asyncio.create_task(one(int(row))))
    under_load = await asyncio.gather(*tasks)
    await stage.close()
    return {
        "micros": [round(float(value), 1) for value in alone],
        "under_load_micros": percentiles(np.array(under_load)),
        "alone_micros": percentiles(np.array(alone)),
        "load": load,
        "searches_a_second": 1 / pause,
    }


def percentiles(micros: np.ndarray) -> dict[str, float]:
    return {f"p{p:g}": round(float(np.percentile(micros, p)), 1) for p in (50, 95, 99, 99.9)}


def main() -> None:
    """Start the shard, ask it, and write the report."""
    arguments = argparse.ArgumentParser(description="one shard's latency")
    arguments.add_argument("--queries", type=int, default=8000)
    arguments.add_argument("--load", type=float, default=0.3)
    arguments.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.serve:
        serve()
        return
    from report import command, machine

    line = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as shard:
        try:
            assert shard.stdout is not None
            address = json.loads(shard.stdout.readline())["address"]
            found = asyncio.run(ask(address, given.queries, given.load))
            memory = _resident_bytes(shard.pid)
        finally:
            shard.terminate()
            shard.wait(20)
    values = {
        "name": "shard_latency",
        "items": 1_000_000,
        "dim": 64,
        "k": K,
        "excluded": EXCLUDED,
        "resident_bytes": memory,
        **found,
        "machine": machine(),
        "command": command(),
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(values) + "\n")
    print({k: v for k, v in values.items() if k not in ("micros", "machine")})


def _resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
