"""Samples a second and peak memory of training DCN, beside a plain PyTorch loop, in one run.

    python benchmarks/training/dcn_speed.py [--rounds 3] [--threads 2] [--steps 60]

The plain loop is the best that we can write with PyTorch's own parts: one `nn.Embedding` for all
fields (with `sparse=True` and SparseAdam where that is faster), the same layers, fused Adam,
batches by indexing tensors. Data is generated: speed does not depend on what is learned. Each
measurement has a process of its own, both sides take turns. Writes
benchmarks/results/training/dcn_speed.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks" / "quality"))
RESULT = ROOT / "benchmarks" / "results" / "training" / "dcn_speed.json"
FRAPPE = (958, 4083, 8, 8, 3, 4, 3, 10, 81, 234)
CASES: dict[str, dict[str, Any]] = {
    "frappe": {"cardinalities": FRAPPE, "width": 16, "deep": (400, 400, 400), "batch": 2048},
    "two million codes": {
        "cardinalities": (1_000_000, 1_000_000, *FRAPPE[2:]),
        "width": 16,
        "deep": (128, 64),
        "batch": 2048,
    },
}
SIDES = ("corerec", "plain", "plain sparse")
CROSSES, DROPOUT, RATE, WARM = 3, 0.2, 1e-3, 10


def rows(case: dict[str, Any], steps: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    count = case["batch"] * steps
    codes = np.stack([rng.integers(1, n, count) for n in case["cardinalities"]], 1)
    return codes.astype(np.int32), (rng.random(count) < 0.3).astype(np.float32)


def corerec_side(case: dict[str, Any], steps: int, precision: Any = "float32") -> float:
    """Train one epoch of DCN and return the seconds after the first steps."""
    from corerec.engines import DCN
    from corerec.engines.ctr_config import CtrFitConfig
    from corerec.engines.ctr_examples import CtrExamples
    from corerec.engines.dcn import DcnConfig

    codes, labels = rows(case, steps)
    times = []
    DCN(
        case["width"],
        config=DcnConfig(
            cross_layers=CROSSES,
            cross_rank=None,
            deep=case["deep"],
            dropout=DROPOUT,
            batch_norm=True,
        ),
        training=CtrFitConfig(
            epochs=1, batch_rows=case["batch"], learning_rate=RATE, precision=precision
        ),
    ).fit(
        CtrExamples.of(codes, labels, cardinalities=case["cardinalities"]),
        report=lambda *_: times.append(time.perf_counter()),
    )
    return times[-1] - times[WARM - 1]


def plain_side(case: dict[str, Any], steps: int, *, sparse: bool) -> float:
    """Train the same with PyTorch's own parts alone."""
    import torch
    from torch import nn

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(sum(case["cardinalities"]), case["width"], sparse=sparse)
            wide = case["width"] * len(case["cardinalities"])
            self.cross = nn.ModuleList(nn.Linear(wide, wide) for _ in range(CROSSES))
            layers: list[nn.Module] = []
            own = wide
            for width in case["deep"]:
                layers += [nn.Linear(own, width), nn.BatchNorm1d(width), nn.ReLU()]
                layers += [nn.Dropout(DROPOUT)]
                own = width
            self.deep = nn.Sequential(*layers)
            self.head = nn.Linear(wide + own, 1)

        def forward(self, codes: torch.Tensor) -> torch.Tensor:
            x0 = self.table(codes).flatten(1)
            x = x0
            for layer in self.cross:
                x = x0 * layer(x) + x
            return self.head(torch.cat([x, self.deep(x0)], 1)).squeeze(1)

    numbers, wanted = rows(case, steps)
    sizes = np.array(case["cardinalities"])
    codes = torch.from_numpy(numbers + (np.cumsum(sizes) - sizes).astype(np.int32))
    labels = torch.from_numpy(wanted)
    torch.manual_seed(0)
    net, loss_of = Plain(), nn.BCEWithLogitsLoss()
    rest = [p for p in net.parameters() if p is not net.table.weight]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Adam(rest if sparse else net.parameters(), lr=RATE, fused=True)
    ]
    if sparse:
        optimizers.append(torch.optim.SparseAdam([net.table.weight], lr=RATE))
    order = torch.randperm(len(codes))
    begin = 0.0
    for step in range(steps):
        if step == WARM:
            begin = time.perf_counter()
        own = order[step * case["batch"] : (step + 1) * case["batch"]]
        loss = loss_of(net(codes[own]), labels[own])
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    return time.perf_counter() - begin


def child(side: str, name: str, steps: int, threads: int) -> None:
    import torch
    from report import peak_memory_bytes

    torch.set_num_threads(threads)
    case = CASES[name]
    if side == "corerec":
        seconds = corerec_side(case, steps)
    else:
        seconds = plain_side(case, steps, sparse=side == "plain sparse")
    rate = case["batch"] * (steps - WARM) / seconds
    print(json.dumps({"samples_per_second": rate, "peak_memory_bytes": peak_memory_bytes()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--child", nargs=2, metavar=("SIDE", "CASE"))
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    if given.child:
        child(*given.child, given.steps, given.threads)
        return
    from report import command, machine

    found: dict[str, Any] = {}
    for name, case in CASES.items():
        runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for _ in range(given.rounds):
            for side in SIDES:
                line = [sys.executable, __file__, "--child", side, name]
                line += ["--steps", str(given.steps), "--threads", str(given.threads)]
                done = subprocess.run(line, capture_output=True, text=True, check=True)
                runs[side].append(json.loads(done.stdout.splitlines()[-1]))
                print(name, side, done.stdout.splitlines()[-1], flush=True)
        middle = {
            side: {
                "samples_per_second": median(run["samples_per_second"] for run in own),
                "peak_memory_bytes": median(run["peak_memory_bytes"] for run in own),
                "runs": own,
            }
            for side, own in runs.items()
        }
        best = max(float(middle[side]["samples_per_second"]) for side in SIDES[1:])
        ratio = float(middle["corerec"]["samples_per_second"]) / best
        found[name] = {"case": case, "sides": middle, "ratio_to_the_best_plain": ratio}
        print(f"{name}: {ratio:.2f} x the best plain loop", flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    values = {
        "name": "dcn_speed",
        "what": "training steps of DCN-v2, full crosses, float32, in samples a second",
        "steps": given.steps,
        "threads": given.threads,
        "cases": found,
        "machine": machine() | {"threads": given.threads},
        "command": command(),
    }
    given.out.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
