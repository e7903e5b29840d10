"""The benchmark's pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving.load import Point
from benchmarks.serving.peers import PEERS

COLOURS = {"a": "#1b6ca8", "a16": "#62a8dc", "b": "#c44536", "c": "#e09f3e", "d": "#6b9080"}
STAGE_COLOURS = {
    "caller": "#b0b0b0",
    "gateway": "#8d8d8d",
    "profile": "#6d597a",
    "retrieve": "#1b6ca8",
    "rank": "#c44536",
    "rerank": "#6b9080",
}
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


def draw_waterfall(stages: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw a request's parts one below the other, each where the one above ends.

    Bars are medians; the line behind each reaches to its 95th percentile. One side for each number
    of callers. Preparation that a stage does while another works is counted where it is waited for.
    """
    pyplot = _pyplot()
    names = list(dict.fromkeys(name for stage in stages for name in stage["median_micros"]))
    width, height = 5.6 * len(stages), 0.26 * len(names) + 1.1
    figure, sides = pyplot.subplots(1, len(stages), figsize=(width, height), squeeze=False)
    for axes, stage in zip(sides[0], stages, strict=True):
        begin = 0.0
        for row, name in enumerate(names):
            length = max(0.0, stage["median_micros"].get(name, 0.0)) / 1e3
            late = max(0.0, stage["p95_micros"].get(name, 0.0)) / 1e3
            owner, _, step = name.partition(".")
            colour, strength = STAGE_COLOURS.get(owner, "#444444"), SHADES.get(step, 0.9)
            axes.plot([begin, begin + late], [row, row], color=colour, alpha=0.35, linewidth=1)
            axes.barh(row, length, left=begin, height=0.72, color=colour, alpha=strength)
            note = {"va": "center", "fontsize": 7, "color": "#333333"}
            axes.text(begin + max(length, late), row, f" {length:.2f}", **note)
            begin += length
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.invert_yaxis()
        axes.margins(x=0.08)
        axes.set_xlabel("ms")
        axes.set_title(
            f"{stage['callers']} caller{'s' * (stage['callers'] != 1)}: "
            f"median request {stage['total_micros'] / 1e3:.2f} ms",
            fontsize=9,
        )
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def draw_overload(results: Mapping[str, Any], path: Path) -> None:
    """Draw latency, and goodput with what was missing or failed, against offered load."""
    pyplot = _pyplot()
    points = results["points"]
    offered = [point["rate"] for point in points]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2))
    answered = [point for point in points if point["ok"]]
    for name, style in (("p50", "o-"), ("p95", "s--"), ("p99", "^:")):
        places = [point["rate"] for point in answered]
        left.plot(places, [p[name] for p in answered], style, label=name, color=COLOURS["a"])
    left.set_yscale("log")
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter("{x:g}")
    left.tick_params(axis="y", which="minor", labelsize=7)
    left.set_ylabel("latency of OK answers, ms")
    right.plot(offered, offered, color="#b0b0b0", linewidth=1, label="offered")
    stacked = (
        ("complete, in time", [p["goodput"] for p in points], "#6b9080"),
        ("degraded or late", [p["qps"] - p["goodput"] for p in points], "#e09f3e"),
        ("failed", [sum(p["errors"].values()) / p["seconds"] for p in points], "#c44536"),
    )
    right.stackplot(
        offered,
        *(values for _, values, _ in stacked),
        labels=[name for name, _, _ in stacked],
        colors=[colour for _, _, colour in stacked],
        alpha=0.8,
    )
    right.set_ylabel("calls a second")
    for axes in (left, right):
        axes.axvline(results["capacity"], color="#333333", linewidth=0.8, linestyle=":")
        axes.set_xlabel("calls offered a second; dotted: capacity of a closed loop")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot
