"""The trials of a search and the file that keeps them: trials.json, replaced after every epoch."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from corerec.config import build_config
from corerec.distributed.tune.space import Values
from corerec.errors import ConfigError, FailedPrecondition

State = Literal["waiting", "running", "done", "stopped", "failed"]
FORMAT = 1


@dataclass(kw_only=True)
class Trial:
    """One set of values and what came of it."""

    number: int
    """From 0, which is the configuration that the search began with."""
    values: Values
    state: State = "waiting"
    """`stopped` is ended early, for others were better; `done` ran to its own end."""
    scores: list[float] = field(default_factory=list)
    """Validation score of each epoch, higher is better."""
    seconds: float = 0.0
    """How long its process has trained."""
    message: str = ""
    """Why it failed."""

    @property
    def best(self) -> float:
        """The highest score, -inf without one."""
        return max(self.scores, default=float("-inf"))

    @property
    def best_epoch(self) -> int:
        """The epoch of the highest score, from 1, 0 without one."""
        return self.scores.index(self.best) + 1 if self.scores else 0

    @property
    def is_over(self) -> bool:
        """Whether the trial needs no more work."""
        return self.state in ("done", "stopped", "failed")

    def heard(self, epoch: int, score: float) -> None:
        """Take the score of an epoch, from 1; of a repeated epoch the newer one."""
        del self.scores[epoch - 1 :]
        self.scores.append(score)


@dataclass(kw_only=True)
class TrialLog:
    """All trials of a search."""

    model: str
    metric: str
    """What the scores are."""
    identity: str
    """Digest of data, base configuration and space: what makes trials comparable."""
    seed: int
    trials: list[Trial] = field(default_factory=list)
    format: int = FORMAT

    @classmethod
    def read(cls, path: Path) -> TrialLog | None:
        """Return the log at `path`, None where there is none. Raises ConfigError when broken."""
        try:
            values = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ConfigError(f"{path}: not readable as JSON: {error}") from None
        trials = values.pop("trials", []) if isinstance(values, dict) else []
        log = build_config(cls, {**values, "trials": []}, source=path)
        log.trials = [build_config(Trial, trial, source=path) for trial in trials]
        return log

    def write(self, path: Path) -> None:
        """Write the log so that a kill at any moment leaves the old file or the new one."""
        fresh = path.with_suffix(".tmp")
        with fresh.open("w") as file:
            json.dump(asdict(self), file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)

    def extend(self, draws: Sequence[Values], path: Path) -> None:
        """Add the draws that are not there yet. Raises FailedPrecondition for another search's."""
        for trial, values in zip(self.trials, draws, strict=False):
            if trial.values != values:
                raise FailedPrecondition(
                    f"{path}: trial {trial.number} must be {values} as this search draws it, "
                    f"got {trial.values}; give another folder, or --no-resume to begin again"
                )
        for number in range(len(self.trials), len(draws)):
            self.trials.append(Trial(number=number, values=draws[number]))
        for trial in self.trials:
            if trial.state == "running":  # the search was killed
                trial.state = "waiting"

    def ranked(self) -> list[Trial]:
        """Return the trials best first; those without a score come last, in their order."""
        return sorted(self.trials, key=lambda t: (-t.best, t.number))

    def best(self) -> Trial:
        """Return the best trial. Raises FailedPrecondition when none has a score."""
        if not self.trials or not (first := self.ranked()[0]).scores:
            reasons: list[Any] = sorted({t.message for t in self.trials if t.message})
            raise FailedPrecondition(f"no trial ended with a score: {'; '.join(reasons)[:500]}")
        return first
