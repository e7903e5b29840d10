"""Measures ranking on a CUDA device: the network alone, and RankingCore with everything around it.

    python -m benchmarks.ranking.gpu [--items 1000000] [--seconds 1]

The network: pairs a second, plain in eager torch, and folded in a captured graph, which gathers
items from a table; against torch.mm at the same shapes. The core: `RankingCore.run` on requests of
other users and candidates each time, the host's part included, called again and again. Needs
torch, numpy and what reads a release; no Ray, FAISS or gRPC. Writes
benchmarks/results/ranking/gpu.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.quality.report import command, machine
from benchmarks.ranking.counts import DEFAULT, LARGE, Network, count, shapes
from benchmarks.ranking.world import make_entries, write_release
from corerec.errors import CoreRecError
from corerec.ranking.core import RankingCore
from corerec.ranking.fold import fold
from corerec.ranking.fold_device import FoldedDcn
from corerec.stages import RankEntry

RESULT = Path(__file__).parents[1] / "results" / "ranking" / "gpu.json"
CANDIDATES = 500
BATCHES = ((1, 500), (4, 500), (16, 500), (64, 500), (256, 500), (1, 8000), (4, 8000), (16, 8000))
"""Requests and candidates of each, in a call."""


def seconds_of(call: Callable[[], object], seconds: float, *, captured: bool) -> float:
    """Return the median time of a call on the device, by its own clock."""
    torch.cuda.synchronize()  # what it reads is made on another stream
    stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
        stream.synchronize()
        if captured:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                call()
            call = graph.replay
        events: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(21)]
        found, begin = [], time.perf_counter()
        while time.perf_counter() - begin < seconds:
            for event in events[:-1]:
                event.record()
                call()
            events[-1].record()
            stream.synchronize()
            found += [a.elapsed_time(b) / 1e3 for a, b in pairwise(events)]
    return float(np.median(found))


def network(network: Network, items: int, seconds: float) -> dict[str, Any]:
    """Return pairs a second of one network's forms."""
    rates: dict[str, float] = {}
    dcn = network.make().cuda()
    folded = fold(dcn, network.users)
    for half in (False, True):
        kind, name = (torch.bfloat16, "bf16") if half else (torch.float32, "fp32")
        own = network.make().cuda().to(kind)
        for pairs in (8_192, 65_536):
            rows = (torch.randn(pairs, dcn.width, device="cuda") * 0.3).to(kind)
            rates[f"plain eager {name}, {pairs} pairs"] = pairs / seconds_of(
                lambda own=own, rows=rows: own(rows), seconds, captured=False
            )
            cases, wide = -(-pairs // 512), 512
            form = FoldedDcn(folded, network.items, half=half)
            table = form.table(items)
            for part in torch.split(table, 100_000):
                part[:] = form.items(torch.randn(len(part), network.items, device="cuda") * 0.3)
            user = torch.randn(cases, network.users, device="cuda") * 0.3
            wanted = torch.randint(0, items, (cases, wide), device="cuda")
            compared = torch.randn(network.pairs, cases, wide, device="cuda") * 0.3
            given = form, user, table, wanted, compared
            rates[f"folded {name}, {pairs} pairs"] = pairs / seconds_of(
                lambda given=given: given[0](*given[1:]), seconds, captured=True
            )
            rates[f"its products {name}, {pairs} pairs"] = pairs / sum(
                seconds_of(lambda left=left, right=right: left @ right, seconds / 5, captured=True)
                for left, right in (
                    (
                        torch.randn(pairs, depth, device="cuda", dtype=kind),
                        torch.randn(depth, columns, device="cuda", dtype=kind),
                    )
                    for _, depth, columns in shapes(folded)
                )
            )
    counted = count(network, CANDIDATES)
    return {
        "counts": counted,
        "pairs_per_second": {name: round(rate) for name, rate in rates.items()},
    }


def core_rate(core: RankingCore, requests: int, candidates: int, seconds: float) -> dict[str, Any]:
    """Return what calls of one size take."""
    rng = np.random.default_rng(0)
    entries = make_entries(max(64, 2 * requests), core.items, rng, candidates)
    users = cycle(range(10_000))
    source = cycle(
        entries[start : start + requests]
        for start in range(0, len(entries) - requests + 1, requests)
    )
    walls, features, score = [], [], []
    begin = 0.0
    for call in range(1 << 30):
        batch: list[RankEntry] = [
            replace(e, user=replace(e.user, user_id=f"u{next(users)}")) for e in next(source)
        ]
        if call == 20:
            begin = time.perf_counter()
        start = time.perf_counter()
        results = core.run(batch)
        walls.append(time.perf_counter() - start)
        assert not isinstance(results[0], CoreRecError)
        features.append(results[0].timings["features"])
        score.append(results[0].timings["score"])
        if begin and time.perf_counter() - begin > seconds:
            break
    took = np.array(walls[20:]) * 1e3
    return {
        "requests": requests,
        "candidates": candidates,
        "pairs_per_second": round(requests * candidates / float(np.mean(took)) * 1e3),
        "ms_p50": round(float(np.percentile(took, 50)), 3),
        "ms_p99": round(float(np.percentile(took, 99)), 3),
        "host_before_micros_p50": float(np.median(features[20:])),
        "device_and_copies_micros_p50": float(np.median(score[20:])),
    }


def core(items: int, seconds: float) -> dict[str, Any]:
    """Return what RankingCore does with the large network, in both precisions."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        release = write_release(Path(folder), items, 20_000, rng, large=True)
        begin = time.perf_counter()
        plain = RankingCore.load(release, device="cuda", precision="fp32")
        loaded = time.perf_counter()
        plain.warm()
        found["load_seconds"] = round(loaded - begin, 2)
        found["warm_seconds"] = round(time.perf_counter() - loaded, 2)
        for precision, own in (("fp32", plain), ("bf16", plain.in_precision("bf16"))):
            own.warm()
            found[precision] = [core_rate(own, *size, seconds) for size in BATCHES]
        found["device_memory_mib"] = torch.cuda.max_memory_allocated() >> 20
    return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=1.0)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this machine has no CUDA device that torch can use")
    report: dict[str, Any] = {
        "what": "ranking on a CUDA device, one process",
        "command": command(),
        "machine": machine(),
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "items": given.items,
        "core": core(given.items, given.seconds),
    }
    with torch.inference_mode():
        report["network"] = {
            one.name: network(one, given.items, given.seconds / 2) for one in (DEFAULT, LARGE)
        }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
