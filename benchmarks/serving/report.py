"""What a person reads: the tables of docs/benchmarks.md, from the JSON that the runs left."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving.machine import ROOT
from benchmarks.serving.peers import PEERS

RESULTS = ROOT / "benchmarks/results/serving"
PAGE = ROOT / "docs/benchmarks.md"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
PICTURES = "../benchmarks/results/serving"


def write_page(out: Path) -> Path:
    """Write what a folder's results say: into docs/benchmarks.md if they are kept, else beside."""
    results = json.loads((out / "results.json").read_text())
    overload = out / "overload.json"
    block = render(results, json.loads(overload.read_text()) if overload.exists() else None)
    if out.resolve() == RESULTS:
        PAGE.write_text(fill(PAGE.read_text(), block))
        return PAGE
    (out / "report.md").write_text(block + "\n")
    return out / "report.md"


def fill(page: str, block: str, begin: str = BEGIN, end: str = END) -> str:
    """Return the page with what is between its markers replaced. Raises ValueError without them."""
    head, found, rest = page.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page must hold {begin} and, after it, {end}")
    return f"{head}{begin}\n\n{block.strip()}\n\n{end}{tail}"


def render(results: Mapping[str, Any], overload: Mapping[str, Any] | None = None) -> str:
    """Return the generated part of the page."""
    chosen = results["best"]
    parts = [
        where(results),
        "### Targets",
        target_table(results["targets"]),
        "### Closed loops",
        comparison(chosen),
        notes(chosen),
        precision(results["differences"]),
        f"![Answers a second and median latency]({PICTURES}/callers.png)",
    ]
    if results["searches"]:
        parts += [
            f"### The most calls a second with p99 within {results['limit_ms']:g} ms",
            search_table(results["searches"]),
        ]
    if overload:
        parts += [
            "### From a tenth to twice the capacity",
            overload_words(overload),
            f"![Latency and goodput against offered load]({PICTURES}/overload.png)",
            overload_table(overload["points"]),
        ]
    parts += [
        "### CoreRec's cluster against the others",
        ratio_table(results["ratios"]),
        "### Start and memory",
        start_table(results["started"]),
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
        f"{versions['grpcio']}, torch {versions['torch']}, faiss {versions['faiss-cpu']}. "
        f"Release {subject['release']}: {world}. "
        f"{run['seconds']:g} s a point, the best of {run['rounds']} round(s)."
    )


def comparison(chosen: Sequence[Mapping[str, Any]]) -> str:
    """Return the main table."""
    names = ["callers", "answers/s", "p50 ms", "p95 ms", "p99 ms"]
    names += ["CPU ms/answer", "of it own", "generator CPU ms/answer"]
    lines = [f"| | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
    for point in chosen:
        lines.append(
            f"| ({point['peer']}) {PEERS[point['peer']].name} | {point['callers']} "
            f"| {point['qps']:.0f} | {point['p50']:.1f} | {point['p95']:.1f} | {point['p99']:.1f} "
            f"| {point['cpu_ms_per_request']:.2f} | {point['own_cpu_ms_per_request']:.2f} "
            f"| {point['generator_cpu_ms_per_request']:.2f} |"
        )
    return "\n".join(lines)


def notes(chosen: Sequence[Mapping[str, Any]]) -> str:
    """Return what went wrong, or that nothing did."""
    lines = []
    for point in chosen:
        said = [f"{count} x {status}" for status, count in sorted(point["errors"].items())]
        if point["degraded"]:
            said.append(f"{point['degraded']} of {point['ok']} answers lacked something")
        if said:
            lines.append(f"- ({point['peer']}) at {point['callers']} callers: {', '.join(said)}")
    if not lines:
        able = [f"({key})" for key, peer in PEERS.items() if not peer.textbook]
        return (
            "No call failed, and nothing was missing from any answer of "
            f"{', '.join(able[:-1])} and {able[-1]}, which can leave a late stage out."
        )
    return "\n".join(["What went wrong:", "", *lines])


def precision(differences: Mapping[str, Mapping[str, float]]) -> str:
    """Return how the lists of another precision differ from the exact ones."""
    return "\n".join(
        f"({key}) {PEERS[key].name} gave {100 * of['same_items']:.1f}% of the exact lists' items "
        f"and {100 * of['same_first']:.1f}% of their first items; scores differ by at most "
        f"{of['score']:.2g}."
        for key, of in differences.items()
    )


def target_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the targets beside what was measured."""
    lines = ["| | target | aim | measured | |", "|---|--:|--:|--:|---|"]
    for row in rows:
        sign, unit = "≤" if row["lower_is_better"] else "≥", row["unit"]
        reached = {"aim": "aim reached", "met": "met", "missed": "**missed**"}[row["reached"]]
        measured = f"{row['measured']:.0f}" if row["measured"] >= 100 else f"{row['measured']:.2f}"
        lines.append(
            f"| {row['name']} | {sign} {row['target']:g}{unit} | {row['aim']:g}{unit} "
            f"| {measured}{unit} | {reached} |"
        )
    return "\n".join(lines)


def search_table(searches: Sequence[Mapping[str, Any]]) -> str:
    """Return what rate each peer can keep up, and how it does when arrivals are not even."""
    lines = [
        "| | answers/s | p50 ms | p99 ms | the same as Poisson arrivals, p99 ms | CPU ms/answer "
        "| generator CPU ms/answer |",
        "|---|" + "--:|" * 6,
    ]
    for found in searches:
        best, poisson = found["best"], found["poisson"]
        name = f"| ({found['peer']}) {PEERS[found['peer']].name} |"
        if not best:
            lines.append(f"{name} none: {found['why_none']} | | | | | |")
            continue
        uneven = f"{poisson['p99']:.1f}" if poisson and poisson["p99"] is not None else "–"
        lines.append(
            f"{name} {best['qps']:.0f} | {best['p50']:.1f} | {best['p99']:.1f} | {uneven} "
            f"| {best['cpu_ms_per_request']:.2f} | {best['generator_cpu_ms_per_request']:.2f} |"
        )
    return "\n".join(lines)


def overload_words(overload: Mapping[str, Any]) -> str:
    """Return what the load against which latency is drawn was."""
    return (
        f"({overload['peer']}) {PEERS[overload['peer']].name} under open-loop load, "
        f"{overload['arrivals']} arrivals, {overload['seconds']:g} s a point; each call has "
        f"{1e3 * overload['deadline_seconds']:g} ms. 100% is the {overload['capacity']:.0f} "
        f"answers a second of a closed loop of {overload['capacity_callers']} callers. "
        "Goodput: answers in "
        "time that lack nothing."
    )


def overload_table(points: Sequence[Mapping[str, Any]]) -> str:
    """Return each load's outcome."""
    lines = [
        "| load | offered/s | goodput/s | OK/s | degraded | errors | p50 ms | p95 ms | p99 ms |",
        "|--:|" + "--:|" * 8,
    ]
    for point in points:
        said = ", ".join(f"{n} x {status}" for status, n in sorted(point["errors"].items()))
        times = [point[name] for name in ("p50", "p95", "p99")]
        cells = " | ".join("–" if time is None else f"{time:.1f}" for time in times)
        lines.append(
            f"| {100 * point['share']:.0f}% | {point['rate']:.0f} | {point['goodput']:.0f} "
            f"| {point['qps']:.0f} | {point['degraded']} | {said or 0} | {cells} |"
        )
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


def start_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return how long each peer took to start, and its memory after its loads."""
    lines = ["| | start s | memory GiB |", "|---|--:|--:|"]
    for row in sorted(rows, key=lambda row: str(row["peer"])):
        lines.append(
            f"| ({row['peer']}) {PEERS[row['peer']].name} | {row['start_seconds']:.0f} "
            f"| {row['memory_mib'] / 1024:.1f} |"
        )
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
