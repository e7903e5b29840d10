"""The benchmark's two pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving.load import Point
from benchmarks.serving.peers import PEERS

COLOURS = {"a": "#1b6ca8", "b": "#c44536", "c": "#e09f3e", "d": "#6b9080"}
STAGE_COLOURS = {
    "caller": "#b0b0b0",
    "gateway": "#8d8d8d",
    "profile": "#6d597a",
    "retrieve": "#1b6ca8",
    "rank": "#c44536",
    "rerank": "#6b9080",
}
TEXT = {"ha": "center", "va": "center", "fontsize": 7}
SHADES = {"rpc": 0.3, "queue": 0.5}
"""How strong the stage's colour is for what is not computing."""


def draw_callers(points: Sequence[Point], path: Path) -> None:
    """Draw answers a second and median latency against callers, side by side."""
    pyplot = _pyplot()
    callers = sorted({point.callers for point in points})
    keys = [key for key in PEERS if any(point.peer == key for point in points)]
    by = {(point.peer, point.callers): point for point in points}
    figure, sides = pyplot.subplots(1, 2, figsize=(11, 4.2))
    for axes, measure, title in zip(
        sides,
        ("qps", "p50"),
        ("answers a second (more is better)", "p50, ms (less is better)"),
        strict=True,
    ):
        width = 0.8 / len(keys)
        for place, key in enumerate(keys):
            x = [i + (place - (len(keys) - 1) / 2) * width for i in range(len(callers))]
            values = [getattr(by[key, c], measure) if (key, c) in by else 0.0 for c in callers]
            label = f"({key}) {PEERS[key].name}"
            bars = axes.bar(x, values, width * 0.92, color=COLOURS[key], label=label)
            texts = [f"{v:.0f}" if v >= 20 else f"{v:.1f}" for v in values]
            axes.bar_label(bars, texts, fontsize=7, padding=1)
        axes.set_xticks(range(len(callers)), [str(c) for c in callers])
        axes.set_xlabel("callers, each waiting for its answer")
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    sides[0].legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def draw_stages(stages: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the medians of a request's parts as one stacked bar per number of callers."""
    pyplot = _pyplot()
    figure, rows = pyplot.subplots(len(stages), 1, figsize=(11, 1.9 * len(stages) + 0.6))
    for axes, stage in zip([rows] if len(stages) == 1 else rows, stages, strict=True):
        left, total = 0.0, sum(max(0.0, v) for v in stage["median_micros"].values())
        for name, micros in stage["median_micros"].items():
            width = max(0.0, micros) / 1e3
            owner, _, step = name.partition(".")
            colour, strength = STAGE_COLOURS.get(owner, "#444444"), SHADES.get(step, 0.9)
            axes.barh(0, width, left=left, color=colour, alpha=strength, edgecolor="white")
            if width * 1e3 > 0.025 * total:
                turn = 0 if width * 1e3 > 0.09 * total else 90
                axes.text(left + width / 2, 0, f"{name}\n{width:.2f}", rotation=turn, **TEXT)
            left += width
        axes.set_yticks([])
        axes.set_title(
            f"{stage['callers']} caller{'s' * (stage['callers'] != 1)}: median of each part, ms; "
            f"whole request {stage['total_micros'] / 1e3:.2f} ms",
            fontsize=9,
        )
        axes.spines[["top", "right", "left"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot
