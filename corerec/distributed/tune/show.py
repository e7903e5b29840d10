"""Shows the trials of a search as a table, while it runs and when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from corerec.distributed.tune.trials import Trial, TrialLog

_LOOK = {
    "waiting": "dim",
    "running": "cyan",
    "done": "green",
    "stopped": "yellow",
    "failed": "red",
}


class Show:
    """What `search` calls with the log whenever a trial moves."""

    def __init__(self, live: Live, most_rows: int) -> None:
        self._live, self._rows = live, most_rows

    def __call__(self, log: TrialLog) -> None:
        """Draw the log anew."""
        self._live.update(trial_table(log, most_rows=self._rows))


@contextmanager
def shown(console: Console) -> Iterator[Show]:
    """Show a live table while the block runs; it goes away at the end."""
    with Live(console=console, transient=True, refresh_per_second=4) as live:
        yield Show(live, most_rows=max(5, console.height - 6))


def trial_table(log: TrialLog, most_rows: int = 10_000) -> Table:
    """Return the trials, best first, those that run on top of those that wait."""
    over = sum(t.is_over for t in log.trials)
    running = sum(t.state == "running" for t in log.trials)
    table = Table(
        title=f"{log.model}: {over} of {len(log.trials)} trials over, {running} running",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        collapse_padding=True,
    )
    paths = list(log.trials[0].values) if log.trials else []
    table.add_column("trial", justify="right")
    for path in paths:
        table.add_column(path.rsplit(".", 1)[-1].replace("_", "\n"), justify="right")
    for name in ("epochs", log.metric.replace(" ", "\n"), "seconds"):
        table.add_column(name, justify="right")
    table.add_column("state")
    order = {"running": 0, "done": 0, "stopped": 0, "failed": 1, "waiting": 2}
    rows = sorted(log.trials, key=lambda t: (order[t.state], -t.best, t.number))
    best = max((t.best for t in log.trials), default=float("-inf"))
    for trial in rows[:most_rows]:
        _row(table, trial, paths, best)
    if len(rows) > most_rows:
        table.caption = f"and {len(rows) - most_rows} more"
    return table


def _row(table: Table, trial: Trial, paths: list[str], best: float) -> None:
    is_best = bool(trial.scores) and trial.best == best
    table.add_row(
        str(trial.number),
        *(str(trial.values[path]) for path in paths),
        str(len(trial.scores) or ""),
        f"{trial.best:.4f}" if trial.scores else "",
        f"{trial.seconds:.1f}" if trial.seconds else "",
        f"[{_LOOK[trial.state]}]{trial.state}[/]",
        style="bold" if is_best else "",
    )
