"""Draws a search: each trial's scores by epoch, and its values as a line across the parameters."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from corerec.distributed.tune.space import Parameter
from corerec.distributed.tune.trials import TrialLog

_MAP = "viridis"
_LABEL = {"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8}


def draw(log: TrialLog, parameters: tuple[Parameter, ...], path: Path) -> None:
    """Write a PNG: on the left score against epoch, on the right one line a trial, best brightest.

    Each upright line on the right is a parameter from its least to its greatest value, in
    logarithms where it is drawn so; the last one is the score.
    """
    scored = [t for t in log.ranked() if t.scores][::-1]  # the best drawn last, on top
    figure = Figure(figsize=(6 + 1.6 * len(parameters), 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[4, 2 + 1.6 * len(parameters)])
    best = np.array([t.best for t in scored])
    low, high = (float(best.min()), float(best.max())) if len(best) else (0.0, 1.0)
    scale = Normalize(low, high if high > low else low + 1e-9)
    places = [_places([t.values[p.path] for t in scored], p) for p in parameters]
    for row, trial in enumerate(scored):
        colour = colormaps[_MAP](scale(trial.best))
        width = 2.5 if row == len(scored) - 1 else 1.0
        left.plot(range(1, len(trial.scores) + 1), trial.scores, ".-", color=colour, lw=width)
        heights = [place[row] for place, _ in places] + [float(scale(trial.best))]
        right.plot(range(len(heights)), heights, "-", color=colour, lw=width)
    left.set(xlabel="epoch", ylabel=log.metric, title=f"{log.model}, {len(scored)} trials")
    left.xaxis.get_major_locator().set_params(integer=True)
    _axes(right, [p.path.rsplit(".", 1)[-1] for p in parameters] + [log.metric])
    for column, (_, marks) in enumerate(places):
        for height, text in marks:
            right.annotate(text, (column, height), fontsize=8, ha="right", xytext=(-3, 0),
                           textcoords="offset points", va="center", bbox=_LABEL)  # fmt: skip
    for height, value in ((0.0, low), (1.0, high)):
        right.annotate(f"{value:.4f}", (len(places), height), fontsize=8, xytext=(4, 0),
                       textcoords="offset points", va="center", bbox=_LABEL)  # fmt: skip
    figure.savefig(path, dpi=120)


def _axes(axes: Any, names: list[str]) -> None:
    for column in range(len(names)):
        axes.axvline(column, color="0.8", zorder=0)
    axes.set_xticks(range(len(names)), names, rotation=20)
    axes.set(yticks=[], ylim=(-0.06, 1.06), xlim=(-0.6, len(names) - 0.2))
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)


def _places(values: list[Any], parameter: Parameter) -> tuple[list[float], list[tuple[float, str]]]:
    """Return each value's height in [0, 1], and the marks of the parameter's line."""
    if parameter.kind == "choice":
        known = sorted({str(v) for v in values}, key=lambda t: _order(t))
        heights = {text: i / max(1, len(known) - 1) for i, text in enumerate(known)}
        return [heights[str(v)] for v in values], [(h, text) for text, h in heights.items()]
    is_log = parameter.kind == "log_uniform"
    numbers = [math.log(v) if is_log else float(v) for v in values]
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    width = (high - low) or 1.0
    marks = [(0.0, low), (1.0, high)] if high > low else [(0.0, low)]
    return (
        [(n - low) / width for n in numbers],
        [(height, f"{math.exp(n) if is_log else n:.3g}") for height, n in marks],
    )


def _order(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return math.inf, text
