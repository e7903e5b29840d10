"""Training in bf16 autocast beside fp32 on this CPU: speed, and what it does to the metric.

    python benchmarks/training/bf16.py [--seeds 0,1] [--rounds 2]

The two-tower of benchmarks/quality/two_tower.py is trained whole in both precisions, so its recall
is compared; BERT4Rec and DCN are timed over a few batches. bf16 pays only where the CPU multiplies
it in hardware (AVX512-BF16, AMX). Both take turns, each in a process of its own. Writes
benchmarks/results/training/bf16.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "quality"))
from report import ROOT, command, machine

RESULT = ROOT / "benchmarks/results/training/bf16.json"
PRECISIONS = ("fp32", "bf16")


def two_tower(precision: str, seed: int) -> dict[str, Any]:
    """Train the two-tower of the quality benchmark and return its speed and recall."""
    import two_tower as quality

    quality.FIT = replace(quality.FIT, precision=precision)
    found = quality.run(seed)
    return {"samples_per_second": found.samples_per_second, **found.metrics}


def bert4rec(precision: str, steps: int) -> dict[str, Any]:
    """Train BERT4Rec over a few batches and return its speed."""
    import bert4rec_speed as speed
    from leave_one_out import ml1m

    speed.CLOZE = replace(speed.CLOZE, precision=precision)
    data = ml1m().before(2)
    speed.ours(data, 1)
    sequences, seconds = speed.ours(data, steps)
    return {"samples_per_second": sequences / seconds}


def dcn(precision: str, steps: int) -> dict[str, Any]:
    """Train DCN on generated rows of frappe's shape and return its speed."""
    import dcn_speed as speed

    name = {"fp32": "float32", "bf16": "bfloat16"}[precision]
    case = speed.CASES["frappe"]
    rate = case["batch"] * (steps - speed.WARM)
    return {"samples_per_second": rate / speed.corerec_side(case, steps, precision=name)}


def measure(model: str, precision: str, number: int) -> dict[str, Any]:
    """Run one side in a process of its own."""
    line = [sys.executable, __file__, "--only", model, precision, str(number)]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{model} {precision}: {found}", flush=True)
    return found


def main() -> None:
    """Measure all and write the report."""
    arguments = argparse.ArgumentParser(description="bf16 beside fp32 in training")
    arguments.add_argument("--seeds", default="0,1")
    arguments.add_argument("--rounds", type=int, default=2)
    arguments.add_argument("--only", nargs=3, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.only:
        model, precision, number = given.only
        sides = {"two_tower": two_tower, "bert4rec": bert4rec, "dcn": dcn}
        print(json.dumps(sides[model](precision, int(number))))
        return
    plan = {
        "bert4rec": [16] * given.rounds,
        "dcn": [60] * given.rounds,
        "two_tower": [int(seed) for seed in given.seeds.split(",")],
    }
    models: dict[str, Any] = {}
    for model, numbers in plan.items():
        runs: dict[str, list[dict[str, Any]]] = {p: [] for p in PRECISIONS}
        for number in numbers:
            for precision in PRECISIONS:
                runs[precision].append(measure(model, precision, number))
        speeds = {p: median(r["samples_per_second"] for r in runs[p]) for p in PRECISIONS}
        models[model] = {"speed_ratio": speeds["bf16"] / speeds["fp32"], "runs": runs}
        for metric in runs["fp32"][0].keys() - {"samples_per_second"}:
            models[model][metric] = {p: mean(r[metric] for r in runs[p]) for p in PRECISIONS}
        print(f"{model}: bf16 is {models[model]['speed_ratio']:.2f} x fp32", flush=True)
    values = {"name": "bf16", "models": models, "machine": machine(), "command": command()}
    RESULT.write_text(json.dumps(values, indent=2) + "\n")
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
