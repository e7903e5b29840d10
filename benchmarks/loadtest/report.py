"""The load test's report for a person: a Markdown page and a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks.loadtest.ghz import Measured

HEAD = """\
# Load test

`make loadtest`: ghz against the running cluster, `Recommend` for users drawn from the release.
{where}

Latencies are of calls that ended OK. "ghz" is the number of cores that the load generator itself
kept busy; where it runs on the cluster's own machine those cores are missing to the cluster.
"""
CLOSED = """\
## Closed loop

Each caller sends its next call when the last one is answered.

| callers | answers/s | p50 ms | p95 ms | p99 ms | slowest | errors | degraded | ghz cores |
|--:|--:|--:|--:|--:|--:|--:|--:|--:|
"""
OPEN = """\
## Open loop

Calls leave at a fixed rate whether or not earlier ones were answered, as users do.

| offered/s | answers/s | p50 ms | p95 ms | p99 ms | slowest | errors | degraded | ghz cores |
|--:|--:|--:|--:|--:|--:|--:|--:|--:|
"""


def render(results: Sequence[Measured], where: str) -> str:
    """Return the page. `where` says what ran on which machine."""
    closed = [row(m, str(m.load.callers)) for m in results if m.load.callers]
    opened = [row(m, f"{m.load.rate:.0f}") for m in results if m.load.rate]
    parts = [HEAD.format(where=where)]
    if closed:
        parts.append(CLOSED + "\n".join(closed) + "\n")
    if opened:
        parts.append(OPEN + "\n".join(opened) + "\n")
    parts.append("![Latency](latency.png)\n")
    return "\n".join([*parts, *notes(results)])


def row(measured: Measured, load: str) -> str:
    """Return one line of a table."""
    times = (measured.p50, measured.p95, measured.p99, measured.slowest)
    degraded = "?" if measured.degraded is None else f"{sum(measured.degraded.values()):.0f}"
    cells = [
        load,
        f"{measured.qps:.0f}",
        *("–" if math.isnan(time) else f"{time:.1f}" for time in times),
        str(sum(measured.errors.values())),
        degraded,
        f"{measured.generator_cpus:.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def notes(results: Sequence[Measured]) -> list[str]:
    """Return what the tables cannot say: which errors, what was degraded."""
    lines = []
    for m in results:
        said = [f"{count} x {status}" for status, count in sorted(m.errors.items())]
        said += [f"{count:.0f} x {what}" for what, count in sorted((m.degraded or {}).items())]
        if said:
            lines.append(f"- {m.load.name}: {', '.join(said)}")
    return ["Errors and what was missing from answers:\n", *lines, ""] if lines else []


def plot(results: Sequence[Measured], path: Path) -> None:
    """Draw latency against callers and against offered rate."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True)
    answered = [m for m in results if m.ok]
    closed = [m for m in answered if m.load.callers]
    opened = [m for m in answered if m.load.rate]
    sides = (
        (left, closed, [m.load.callers for m in closed], "callers, each waiting for its answer"),
        (right, opened, [m.load.rate for m in opened], "calls offered a second"),
    )
    for axes, rows, x, label in sides:
        for name, style in (("p50", "o-"), ("p95", "s--"), ("p99", "^:")):
            axes.plot(x, [getattr(m, name) for m in rows], style, label=name)
        for place, m in zip(x, rows, strict=True):
            note = {"textcoords": "offset points", "xytext": (4, -12), "fontsize": 8}
            axes.annotate(f"{m.qps:.0f}/s", (place, m.p50), **note)
        axes.set_xlabel(label)
        axes.margins(x=0.12, y=0.12)
        axes.grid(alpha=0.3, which="both")
    left.set_ylabel("latency of OK answers, ms")
    left.set_title("closed loop")
    right.set_title("open loop")
    if answered:
        left.set_yscale("log")  # shared by both: an overload is a hundred times the rest
        left.yaxis.set_major_formatter("{x:g}")
    if closed:
        left.set_xscale("log", base=2)
        left.set_xticks([m.load.callers for m in closed], [str(m.load.callers) for m in closed])
    (left if closed else right).legend(*axes.get_legend_handles_labels())
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
