"""Prints answers the way a person wants to read them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from corerec.client import Explanation, Recommendation, Trace

console = Console()


def show_recommendation(answer: Recommendation) -> None:
    """Print the list, what each stage did, and what was missing."""
    console.print(_items(answer))
    console.print(_stages(answer))
    _missing(answer)


def show_explanation(answer: Explanation, user: str = "", list_only: bool = False) -> None:
    """Print the user's recent items, the list, the stages and, unless `list_only`, the traces."""
    if user:
        console.rule(f"[bold]user {user}")
    if answer.history:
        table = Table(title="recent items", title_justify="left", box=None, padding=(0, 2))
        table.add_column("when", style="dim")
        table.add_column("title")
        table.add_column("id", style="dim")
        for item in answer.history[:5]:
            table.add_row(_moment(item.time_micros), item.title, item.item_id)
        console.print(table)
    else:
        console.print("[dim]no history: an unknown or new user[/]")
    show_recommendation(answer.recommendation)
    if not list_only:
        console.print(_traces(answer.traces))


def show_next_steps(address: str, user: str, state_dir: Path) -> None:
    """Print three commands to try: the client, grpcurl and ghz."""
    body = json.dumps({"user_id": user, "page_size": 10})
    method = "corerec.v1.RecommenderService/Recommend"
    commands = (
        f".venv/bin/corerec explain --user {user} --state-dir {state_dir}",
        f".tools/bin/grpcurl -plaintext -d '{body}' {address} {method}",
        f".tools/bin/ghz --insecure --import-paths protos --proto corerec/v1/recommender.proto "
        f"--call {method} -d '{body}' -c 8 -n 2000 {address}",
    )
    console.print()
    console.print(Panel.fit("try next; the last two need scripts/tools", border_style="dim"))
    for command in commands:
        # Plain, on one line however long: they are there to be copied.
        console.print(command, markup=False, highlight=False, soft_wrap=True)


def _items(answer: Recommendation) -> Table:
    table = Table(title="recommendations", title_justify="left", box=None, padding=(0, 1))
    table.add_column("", justify="right", style="dim")
    table.add_column("title")
    table.add_column("category")
    table.add_column("score", justify="right")
    table.add_column("source")
    table.add_column("what moved it", style="dim")
    for place, item in enumerate(answer.items, 1):
        name = item.title or item.item_id
        moved = "; ".join(item.moves) or f"ranked {item.rank_position}"
        table.add_row(str(place), name, item.category, f"{item.score:.3f}", item.source, moved)
    return table


def _stages(answer: Recommendation) -> Table:
    table = Table(
        title=f"{answer.milliseconds:.1f} ms in the gateway, release {answer.release}",
        title_justify="left",
        box=None,
        padding=(0, 2),
    )
    for name in ("stage", "in", "out", "ms", "steps (ms)"):
        table.add_column(name, justify="right" if name in ("in", "out", "ms") else "left")
    for stage in answer.stages:
        steps = "  ".join(f"{name} {ms:.2f}" for name, ms in stage.steps.items())
        table.add_row(
            stage.name,
            str(stage.input_count),
            str(stage.output_count),
            f"{stage.milliseconds:.1f}",
            steps,
        )
    return table


def _missing(answer: Recommendation) -> None:
    for missing in answer.degraded:
        console.print(f"[yellow]{missing.stage}: {missing.reason}: {missing.note}[/]")


def _traces(traces: tuple[Trace, ...]) -> Table:
    table = Table(title="through the funnel", title_justify="left", box=None, padding=(0, 1))
    for name in ("item", "source", "retrieved", "ranked", "final", "what happened"):
        table.add_column(
            name, justify="right" if name in ("retrieved", "ranked", "final") else "left"
        )
    for trace in traces:
        happened = "; ".join(trace.moves)
        if trace.removed_by:
            happened = f"[red]{trace.removed_by}[/]: {trace.note}"
        table.add_row(
            trace.title or trace.item_id,
            ", ".join(dict.fromkeys([trace.source, *trace.found_by])),
            _place(trace.retrieve_position, trace.retrieve_score),
            _place(trace.rank_position, trace.rank_score),
            _place(trace.final_position, trace.final_score),
            happened,
        )
    return table


def _place(position: int, score: float) -> str:
    return f"{position} ({score:.3f})" if position else "-"


def _moment(micros: int) -> str:
    # Data with only an order per user has small numbers where times would be.
    if micros < 10**14:
        return f"#{micros}"
    return f"{datetime.fromtimestamp(micros / 1e6, UTC):%Y-%m-%d %H:%M}"
