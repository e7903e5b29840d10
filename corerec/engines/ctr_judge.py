"""Judges a tabular model by task on rows that it has not learned from, and calibrates it there."""

# P rows, T tasks

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from corerec.engines.calibrate import calibration_report, platt
from corerec.engines.ctr_examples import CtrExamples
from corerec.errors import InvalidArgument
from corerec.stages import Float32s

ByTask = dict[str, dict[str, float]]


def by_task(
    logits: Float32s, data: CtrExamples, tasks: Sequence[str], *, calibrate: bool
) -> tuple[ByTask, NDArray[np.float32]]:
    """Return each task's metrics on the rows that observed it, and scale and bias (T, 2).

    Shapes: logits (P, T). Without `calibrate` scale is 1 and bias 0.

    Raises:
        InvalidArgument: when no row observed a task.
    """
    found: ByTask = {}
    scaling = np.tile(np.array([1, 0], np.float32), (len(tasks), 1))
    if data.labels is None:
        return found, scaling
    for place, task in enumerate(tasks):
        rows = slice(None) if data.observed is None else data.observed[:, place]
        own, right = logits[rows, place], data.labels[rows, place]
        if not len(own):
            raise InvalidArgument(f"validation rows must observe every task, none has {task!r}")
        if calibrate:
            scaling[place] = platt(own, right)
        found[task] = calibration_report(own, right, *scaling[place].tolist())
    return found, scaling


def weighted_mean(
    metrics: Mapping[str, Mapping[str, float]], name: str, weights: Sequence[float]
) -> float:
    """Return the mean over tasks; tasks of weight 0 are left out.

    Raises:
        InvalidArgument: when a task has no such metric: AUC needs both classes.
    """
    total, count = 0.0, 0.0
    for (task, own), weight in zip(metrics.items(), weights, strict=True):
        if weight and name not in own:
            raise InvalidArgument(
                f"validation rows of {task!r} must have both classes for {name}, they have one; "
                "set metric to logloss"
            )
        total, count = total + weight * own.get(name, 0.0), count + weight
    return total / count if count else 0.0
