"""The log of trials, its table and its picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from corerec.distributed.tune.picture import draw
from corerec.distributed.tune.show import trial_table
from corerec.distributed.tune.space import Parameter
from corerec.distributed.tune.trials import Trial, TrialLog
from corerec.errors import ConfigError, FailedPrecondition

PARAMETERS = (
    Parameter(path="two_tower.dim", kind="choice", values=(16, 32), whole=True),
    Parameter(path="two_tower_fit.learning_rate", kind="log_uniform", values=(1e-3, 1e-2)),
)


def a_log() -> TrialLog:
    log = TrialLog(model="two_tower", metric="validation recall", identity="abc", seed=0)
    for number, scores in enumerate([[0.1, 0.3], [0.5, 0.4], [], [0.2]]):
        values = {"two_tower.dim": 16 << (number % 2), "two_tower_fit.learning_rate": 0.001}
        log.trials.append(Trial(number=number, values=values, scores=scores, state="done"))
    log.trials[2].state, log.trials[2].message = "failed", "the loss must be finite"
    log.trials[3].state = "running"
    return log


def test_a_log_is_read_as_it_was_written(tmp_path: Path) -> None:
    log = a_log()
    assert TrialLog.read(tmp_path / "trials.json") is None
    log.write(tmp_path / "trials.json")
    assert TrialLog.read(tmp_path / "trials.json") == log
    assert [p.name for p in tmp_path.iterdir()] == ["trials.json"]


def test_a_broken_log_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trials.json"
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"trials\.json"):
        TrialLog.read(path)


def test_trials_are_ranked_by_their_best_epoch() -> None:
    log = a_log()
    assert [t.number for t in log.ranked()] == [1, 0, 3, 2]
    assert (log.best().number, log.best().best, log.best().best_epoch) == (1, 0.5, 1)


def test_a_log_without_a_score_has_no_best_and_says_why() -> None:
    log = a_log()
    log.trials = [log.trials[2]]
    with pytest.raises(FailedPrecondition, match="must be finite"):
        log.best()


def test_a_resumed_log_keeps_what_is_over_and_takes_up_what_was_running(tmp_path: Path) -> None:
    log = a_log()
    draws = [t.values for t in log.trials] + [{"two_tower.dim": 32}]
    log.extend(draws, tmp_path)
    assert [t.state for t in log.trials] == ["done", "done", "failed", "waiting", "waiting"]
    assert log.trials[3].scores == [0.2]
    with pytest.raises(FailedPrecondition, match="trial 0"):
        log.extend([{"two_tower.dim": 99}], tmp_path)


def test_a_repeated_epoch_replaces_what_came_after_it() -> None:
    trial = Trial(number=0, values={}, scores=[0.1, 0.2, 0.3])
    trial.heard(2, 0.5)
    assert trial.scores == [0.1, 0.5]


def test_the_table_shows_every_trial_best_first_and_marks_failures() -> None:
    console = Console(width=100, record=True)
    console.print(trial_table(a_log()))
    text = console.export_text()
    rows = [line.split() for line in text.splitlines() if line.strip()[:1].isdigit()]
    assert [row[0] for row in rows] == ["1", "0", "3", "2"]
    assert rows[0][-2:] == ["0.5000", "done"]
    assert rows[-1][-1] == "failed"
    assert "3 of 4 trials over, 1 running" in text
    console.print(trial_table(a_log(), most_rows=2))
    assert "and 2 more" in console.export_text()


def test_the_picture_is_drawn_also_of_one_trial_and_of_none(tmp_path: Path) -> None:
    log = a_log()
    for count in (4, 1, 0):
        log.trials = log.trials[:count]
        draw(log, PARAMETERS, tmp_path / f"{count}.png")
        assert (tmp_path / f"{count}.png").read_bytes().startswith(b"\x89PNG")
