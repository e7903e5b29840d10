"""Shows the steps of a training as bars, and notes the time and memory of each."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

Report = Callable[[int, int, str], None]
"""Called with steps done, steps in all, and what to show beside the bar."""


@dataclass(frozen=True)
class StepCost:
    """What a step cost."""

    name: str
    seconds: float
    peak_mib: float
    """Highest resident memory of the process so far, MiB."""


@dataclass
class Steps:
    """The steps of one run. With no console it only measures."""

    console: Console | None = None
    costs: list[StepCost] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[Report]:
        """Show a bar while the block runs; call what it yields to move the bar."""
        start = time.perf_counter()
        if self.console is None:
            yield lambda done, total, note: None
        else:
            with self._bar() as progress:
                task = progress.add_task(name, total=None, note="")

                def report(done: int, total: int, note: str) -> None:
                    progress.update(task, completed=done, total=total, note=note)

                yield report
                total = progress.tasks[0].total or 1
                progress.update(task, completed=total, total=total)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self.costs.append(StepCost(name, time.perf_counter() - start, peak))

    def _bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=self.console,
        )
