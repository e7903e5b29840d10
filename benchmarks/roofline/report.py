"""Writes docs/roofline.md's tables and draws the roofline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLOURS = {
    "encode": "#6d597a",
    "search": "#1b6ca8",
    "features": "#e09f3e",
    "rank": "#c44536",
    "rerank": "#6b9080",
}
ROOFS = {"fp32": "#888888", "bf16": "#bbbbbb", "int8": "#555555"}


def render(results: Mapping[str, Any]) -> str:
    """Return the generated part of the page."""
    machine, subject = results["machine"], results["subject"]
    counts = subject["counts"] or {}
    parts = [
        f"Measured {results['date']} at commit `{machine['commit']}`"
        f"{' (with local changes)' if machine['changed_files'] else ''} on one core of "
        f"{machine['cpu']}; release {subject['release']}, {counts.get('items', 0):,} items. "
        f"`{results['command']}`",
        "### Ceilings",
        ceiling_table(results["ceilings"]),
        "### Stages",
        "![Roofline](../benchmarks/results/roofline/roofline.png)",
        stage_table(results["stages"]),
        "### What is counted",
        "\n".join(
            f"- **{row['stage']}, {row['kind']}**: {row['what']}" for row in results["counts"]
        ),
        "### The rest of a request",
        rest_table(results["rest"]),
    ]
    if results["wire"]:
        parts += ["### Between the stages", wire_table(results["wire"])]
    return "\n\n".join(parts)


def ceiling_table(ceilings: Mapping[str, Any]) -> str:
    """Return what the machine can do."""
    lines = ["| one core of this machine | |", "|---|--:|"]
    for kind, rate in ceilings["peaks"].items():
        lines.append(f"| product of large matrices, {kind} | {rate / 1e9:,.0f} G operations/s |")
    lines.append(f"| reading in order | {ceilings['stream'] / 1e9:.1f} GB/s |")
    for name, row in ceilings["reads"].items():
        lines.append(
            f"| reading {row['run']:,} B at random places of {row['table'] / 2**20:,.0f} MiB "
            f"({name}) | {row['rate'] / 1e9:.1f} GB/s |"
        )
    return "\n".join(lines)


def stage_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return each stage's work, the time that the ceilings allow, ours, and the ratio."""
    lines = [
        "| stage | together | operations | bytes | products allow ms | reading allows ms | ours ms "
        "| ceiling / ours | torch, same products ms |",
        "|---|" + "--:|" * 8,
    ]
    for row in rows:
        bound = max(row["compute_ms"], row["read_ms"])
        lines.append(
            f"| {row['stage']}, {row['kind']} | {row['together']} | {_short(row['operations'])} "
            f"| {_short(row['bytes'])} | {row['compute_ms']:.4f} | {row['read_ms']:.4f} "
            f"| {row['ours_ms']:.4f} | {bound / row['ours_ms']:.0%} | {row['library_ms']:.4f} |"
        )
    return "\n".join(lines)


def rest_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return how much of each stage's call its counted steps are."""
    lines = [
        "| stage's core, whole call | together | core-ms a request | of it counted above |",
        "|---|--:|--:|--:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['stage']} | {row['together']} | {row['core_ms']:.3f} "
            f"| {row['counted_ms'] / row['core_ms']:.0%} |"
        )
    return "\n".join(lines)


def wire_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what four round trips cost on bare sockets, and what the cluster takes for them."""
    lines = [
        "| callers | bytes a request | bare sockets core-ms | ours core-ms | ceiling / ours |",
        "|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['callers']} | {row['bytes']:,} | {row['ceiling_ms']:.3f} "
            f"| {row['ours_ms']:.2f} | {row['ceiling_ms'] / row['ours_ms']:.0%} |"
        )
    return "\n".join(lines)


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Draw operations a second against operations a byte, both logarithmic."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    ceilings, rows = results["ceilings"], results["stages"]
    figure, axes = pyplot.subplots(figsize=(9, 5.6))
    intensities = [row["operations"] / row["bytes"] for row in rows]
    left, right = min(intensities) / 4, max(intensities) * 8
    note: dict[str, Any] = {"fontsize": 8, "color": "#444444"}
    for kind, rate in ceilings["peaks"].items():
        axes.axhline(rate, color=ROOFS[kind], linewidth=1.2)
        axes.text(right, rate * 1.06, f"{kind} {rate / 1e9:,.0f} G/s", ha="right", **note)
    slopes = {"in order": ceilings["stream"]}
    slopes |= {name: row["rate"] for name, row in ceilings["reads"].items()}
    top = max(ceilings["peaks"].values())
    for name, rate in (max(slopes.items(), key=_rate), min(slopes.items(), key=_rate)):
        end = min(right, top / rate)
        axes.plot([left, end], [left * rate, end * rate], color="#aaaaaa", linewidth=1)
        label = f"reading, {name}: {rate / 1e9:.1f} GB/s"
        axes.text(
            left * 1.1, left * rate * 1.45, label, rotation=30, rotation_mode="anchor", **note
        )
    for row, intensity in zip(rows, intensities, strict=True):
        rate = row["operations"] / (row["ours_ms"] / 1e3)
        colour, batch = COLOURS[row["stage"]], row["together"] > 1
        marker = "s" if row["kind"] == "bf16" else "o"
        face = colour if batch else "white"
        axes.plot(intensity, rate, marker, markersize=7, color=colour, markerfacecolor=face)
        text = f"{row['stage']}{' bf16' if row['kind'] == 'bf16' else ''}, {row['together']}"
        axes.annotate(
            text, (intensity, rate), textcoords="offset points", xytext=(7, -3), fontsize=8
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(left, right)
    axes.set_xlabel("operations a byte that is read far from the core")
    axes.set_ylabel(
        "operations a second, one core (ours: full, 32 requests together; hollow, alone)"
    )
    axes.grid(alpha=0.25, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _rate(item: tuple[str, float]) -> float:
    return item[1]


def _short(value: float) -> str:
    for unit, one in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= one:
            return f"{value / one:.2f} {unit}"
    return f"{value:.0f}"
