"""Writes the table of docs/models.md from the reports in benchmarks/results/quality.

    python benchmarks/quality/table.py [--check]

`--check` writes nothing and fails when the page does not say what the reports say.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "models.md"
REPORTS = ROOT / "benchmarks" / "results" / "quality"
BEGIN, END = "<!-- begin: benchmarks/quality/table.py -->", "<!-- end -->"
GIB = 2**30


def lines() -> Iterator[str]:
    """Yield the lines of the table, a block for each report."""
    for path in sorted(REPORTS.glob("*.json")):
        found = json.loads(path.read_text())
        yield from _block(found)
        yield ""


def _block(found: Mapping[str, Any]) -> Iterator[str]:
    rows = [*found["published"].values(), found["required"]]
    metrics = [m for m in found["mean"] if any(m in row for row in rows)] or list(found["mean"])
    yield f"### {found['name']}"
    yield ""
    yield f"{found['data']}; {found['protocol']}."
    yield ""
    yield f"| | {' | '.join(metrics)} |"
    yield "|---|" + "---:|" * len(metrics)
    for name, row in found["published"].items():
        yield _row(name, [_figure(row.get(m)) for m in metrics])
    for name in ("required", "aim"):
        if found[name]:
            yield _row(f"*{name}*", [_figure(found[name].get(m)) for m in metrics])
    seeds = found["seeds"]
    ours = [f"**{found['mean'][m]:.4f}** ± {found['spread'][m] / 2:.4f}" for m in metrics]
    yield _row(f"**ours**, {len(seeds)} seeds", ours)
    yield ""
    yield f"{_verdict(found)} {_cost(seeds)} `{found['command']}`"


def _verdict(found: Mapping[str, Any]) -> str:
    words = []
    for name in ("required", "aim"):
        gaps = {m: _gap(m, found["mean"][m], v) for m, v in found[name].items()}
        missed = {m: gap for m, gap in gaps.items() if gap < 0}
        if not gaps:
            continue
        by = ", ".join(f"{m} by {-gap:.4f}" for m, gap in missed.items())
        words.append(
            f"{name.capitalize()}: missed, {by}." if missed else f"{name.capitalize()}: reached."
        )
    return " ".join(words)


def _gap(metric: str, value: float, wanted: float) -> float:
    return wanted - value if "loss" in metric else value - wanted


def _cost(seeds: list[Mapping[str, Any]]) -> str:
    seconds = sum(s["seconds"] for s in seeds) / len(seeds)
    memory = max(s["peak_memory_bytes"] for s in seeds) / GIB
    took = f"{seconds / 60:.1f} min" if seconds >= 90 else f"{seconds:.0f} s"
    return f"Training {took} a seed, {memory:.1f} GiB."


def _row(name: str, cells: list[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def page(text: str) -> str:
    """Return the page with the table between its marks made anew."""
    before, rest = text.split(BEGIN)
    after = rest.split(END, 1)[1]
    return f"{before}{BEGIN}\n\n" + "\n".join(lines()) + f"{END}{after}"


def main() -> None:
    text = PAGE.read_text()
    fresh = page(text)
    if "--check" in sys.argv[1:]:
        if fresh != text:
            raise SystemExit(f"{PAGE} is not what the reports say: run {Path(__file__).name}")
        return
    PAGE.write_text(fresh)


if __name__ == "__main__":
    main()
