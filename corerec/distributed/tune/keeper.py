"""Keeps the log of trials while Ray Tune runs them, and tells its scheduler of earlier ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from corerec.distributed.tune.trials import Trial, TrialLog


class Keeper:
    """Keeps the log on disk, and tells who watches."""

    def __init__(self, log: TrialLog, path: Path, changed: Callable[[TrialLog], None]) -> None:
        self.log, self.path, self.changed = log, path, changed

    def __getstate__(self) -> dict[str, Any]:
        # Ray Tune stores its callbacks for a restore that is never asked for: the log restores.
        return {}

    def keep(self) -> None:
        """Write the log and tell of it."""
        self.log.write(self.path)
        self.changed(self.log)

    def started(self, trial: Trial) -> None:
        """Take that a trial's process runs."""
        trial.state = "running"
        self.keep()

    def heard(self, trial: Trial, result: dict[str, Any]) -> None:
        """Take what a trial reported: an epoch's score, its end, or why it cannot be trained."""
        if "failed" in result:
            trial.state, trial.message = "failed", str(result["failed"])
        elif "ended" in result:
            trial.state = "done"
        elif "score" in result:
            trial.heard(result["epoch"], result["score"])
            trial.seconds = result["seconds"]
        self.keep()

    def left(self, trial: Trial) -> None:
        """Take that a trial's process is over; one that had not ended itself was stopped."""
        if trial.state == "running":
            trial.state = "stopped"
        self.keep()

    def broke(self, trial: Trial, message: str) -> None:
        """Take that a trial's process died, more often than it may."""
        trial.state, trial.message = "failed", message
        self.keep()


def callback(base: type[Any], keeper: Keeper) -> Any:
    """Return Ray Tune's callback that tells the keeper; `base` is known only inside a session."""

    def own(trial: Any) -> Trial:
        number: int = trial.config["task"]["number"]
        return keeper.log.trials[number]

    class Tell(base):  # type: ignore[misc]  # Ray has no types
        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            keeper.started(own(trial))

        def on_trial_result(
            self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            keeper.heard(own(trial), result)

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            keeper.left(own(trial))

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            lines = str(trial.get_error() or "the process died").strip().splitlines()
            keeper.broke(own(trial), lines[-1][:500])

    return Tell()


def replay(scheduler: Any, log: TrialLog) -> None:
    """Tell the scheduler of trials that are over, so that a resumed search knows their scores."""
    for trial in log.trials:
        if not trial.is_over:
            continue
        known = SimpleNamespace(trial_id=f"earlier-{trial.number}")
        scheduler.on_trial_add(None, known)
        for epoch, score in enumerate(trial.scores, 1):
            scheduler.on_trial_result(None, known, {"epoch": epoch, "score": score})
