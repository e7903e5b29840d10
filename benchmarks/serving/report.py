"""What a person reads: the tables of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.serving.load import Point
from benchmarks.serving.peers import PEERS

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
PICTURES = "../benchmarks/results/serving"


def fill(page: str, block: str) -> str:
    """Return the page with what is between its markers replaced. Raises ValueError without them."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page must hold {BEGIN} and, after it, {END}")
    return f"{head}{BEGIN}\n\n{block.strip()}\n\n{END}{tail}"


def render(results: Mapping[str, Any], chosen: Sequence[Point]) -> str:
    """Return the generated part of the page."""
    parts = [
        where(results),
        comparison(chosen),
        notes(chosen, results["degraded_possible"]),
        f"![Answers a second and median latency]({PICTURES}/callers.png)",
        "### Targets",
        target_table(results["targets"]),
        "### CoreRec's cluster against the others",
        ratio_table(results["ratios"]),
    ]
    if results["stages"]:
        parts += [
            "### Where the time of one request goes",
            f"![Parts of one request]({PICTURES}/stages.png)",
            stage_table(results["stages"]),
        ]
    return "\n\n".join(part for part in parts if part)


def where(results: Mapping[str, Any]) -> str:
    """Return what was measured, on what."""
    machine, subject, run = results["machine"], results["subject"], results["run"]
    counts = subject["counts"] or {}
    world = ", ".join(
        f"{counts[name]:,} {name}" for name in ("items", "users", "interactions") if name in counts
    )
    versions = machine["versions"]
    return (
        f"Measured {results['date']} at commit `{machine['commit']}`"
        f"{' (with local changes)' if machine['changed_files'] else ''} on {machine['cores']} "
        f"cores of {machine['cpu']}, {machine['memory_gib']:g} GiB, shared by the peer and the "
        f"load generator; Python {machine['python']}, Ray {versions['ray']}, grpcio "
        f"{versions['grpcio']}, torch {versions['torch']}, faiss {versions['faiss-cpu']}, ghz "
        f"{versions['ghz']}. Release {subject['release']}: {world}. "
        f"{run['seconds']:g} s a point, the best of {run['rounds']} round(s)."
    )


def comparison(chosen: Sequence[Point]) -> str:
    """Return the main table."""
    names = ["callers", "answers/s", "p50 ms", "p95 ms", "p99 ms"]
    names += ["CPU ms/answer", "of it own", "ghz CPU ms/answer"]
    lines = [f"| | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
    for point in chosen:
        lines.append(
            f"| ({point.peer}) {PEERS[point.peer].name} | {point.callers} | {point.qps:.0f} "
            f"| {point.p50:.1f} | {point.p95:.1f} | {point.p99:.1f} "
            f"| {point.cpu_ms_per_request:.2f} | {point.own_cpu_ms_per_request:.2f} "
            f"| {point.generator_cpu_ms_per_request:.2f} |"
        )
    return "\n".join(lines)


def notes(chosen: Sequence[Point], possible: Sequence[str]) -> str:
    """Return what went wrong, or that nothing did."""
    lines = []
    for point in chosen:
        said = [f"{count} x {status}" for status, count in sorted(point.errors.items())]
        if point.degraded:
            said.append(f"{point.degraded} of {point.ok} answers lacked something")
        if said:
            lines.append(f"- ({point.peer}) at {point.callers} callers: {', '.join(said)}")
    if not lines:
        return (
            "No call failed, and nothing was missing from any answer of "
            f"{' and '.join(f'({key})' for key in possible)}, which can leave a late stage out."
        )
    return "\n".join(["What went wrong:", "", *lines])


def target_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the targets beside what was measured."""
    lines = ["| | target | measured | |", "|---|--:|--:|---|"]
    for row in rows:
        met = "met" if row["measured"] >= row["target"] else "**missed**"
        lines.append(f"| {row['name']} | ≥ {row['target']:g} x | {row['measured']:.2f} x | {met} |")
    return "\n".join(lines)


def ratio_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the ratios; above 1 is in favour of the cluster."""
    lines = [
        "| | callers | answers/s | p50 | p99 | CPU per answer |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        values = (row["qps"], row["p50"], row["p99"], row["cpu_per_request"])
        cells = " | ".join(f"{value:.2f} x" for value in values)
        lines.append(f"| {row['of']} | {row['callers']} | {cells} |")
    return "\n".join(lines)


def stage_table(stages: Sequence[Mapping[str, Any]]) -> str:
    """Return medians of every part of one request; a column for each number of callers."""
    names = list(dict.fromkeys(name for stage in stages for name in stage["median_micros"]))
    heads = [f"{stage['callers']} caller{'s' * (stage['callers'] != 1)}, µs" for stage in stages]
    lines = [f"| part | {' | '.join(heads)} |", "|---|" + "--:|" * len(stages)]
    for name in names:
        cells = [f"{stage['median_micros'].get(name, 0):.0f}" for stage in stages]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    totals = [f"{stage['total_micros']:.0f}" for stage in stages]
    lines.append(f"| whole request | {' | '.join(totals)} |")
    return "\n".join(lines)
