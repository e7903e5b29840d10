"""Where the time of one request goes, from the answers' own reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.serving.answers import Answer

STAGES = ("retrieve", "rank", "rerank")


def parts(answer: Answer) -> dict[str, int]:
    """Return microseconds by part; they add up to what the caller waited.

    `caller`: from the caller to the gateway and back, both ends' gRPC. `gateway`: checking and
    packing. `profile`: the store. For each stage its steps, the `queue` in front of its core, and
    `rpc`: all else between the gateway's call and the stage's answer, which under load includes
    waiting for the RPC before.
    """
    response = answer.response
    found = {
        "caller": answer.micros - response.latency_micros,
        "gateway": response.latency_micros - sum(s.latency_micros for s in response.stages),
    }
    for report in response.stages:
        if report.stage not in STAGES:
            found[report.stage] = report.latency_micros
            continue
        steps = {f"{report.stage}.{step.name}": step.latency_micros for step in report.steps}
        found[f"{report.stage}.rpc"] = report.latency_micros - sum(steps.values())
        found |= steps
    return found


def breakdown(answers: Sequence[Answer], callers: int) -> dict[str, Any]:
    """Return medians and 95th percentiles over complete answers, in microseconds, by part."""
    whole = [parts(answer) for answer in answers if not answer.response.degraded]
    if not whole:
        raise SystemExit(f"every one of {len(answers)} answers was degraded")
    names = list(dict.fromkeys(name for found in whole for name in found))
    columns = {name: [found.get(name, 0) for found in whole] for name in names}
    return {
        "callers": callers,
        "requests": len(answers),
        "degraded": len(answers) - len(whole),
        "total_micros": float(np.median([sum(found.values()) for found in whole])),
        "median_micros": {name: float(np.median(column)) for name, column in columns.items()},
        "p95_micros": {name: float(np.percentile(column, 95)) for name, column in columns.items()},
    }
