"""What a trial runs, in this process: scores of every epoch, told again when it goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from corerec.distributed.tune.objectives import OBJECTIVES, base_config
from corerec.distributed.tune.space import SearchSpace, read_space
from corerec.errors import ConfigError
from corerec.pipelines.config import TrainConfig


def told(model: str, data: Path, config: TrainConfig, folder: Path) -> list[tuple[int, float]]:
    """Run one trial and return what it told."""
    objective = OBJECTIVES[model]
    heard: list[tuple[int, float]] = []
    shared = None if objective.shared is None else objective.shared(data, config, folder)
    objective.run(
        data, config, folder / "trial.safetensors", lambda *one: heard.append(one), shared
    )
    return heard


@pytest.mark.parametrize("model", sorted(OBJECTIVES))
def test_a_trial_tells_every_epoch_and_tells_it_again_when_it_goes_on(
    model: str, tiny_data: Path, tmp_path: Path
) -> None:
    objective = OBJECTIVES[model]
    base = base_config(objective, preset="tiny", epochs=2)
    base = replace(
        base,
        bert4rec=replace(base.bert4rec, dim=16, hidden=16, layers=1, max_len=20),
        ranker_fit=replace(base.ranker_fit, patience=2),
    )
    first = told(model, tiny_data, base, tmp_path)
    assert [epoch for epoch, _ in first] == [1, 2]
    assert all(0 < score <= 1 for _, score in first)
    again = told(model, tiny_data, base, tmp_path)
    assert again == pytest.approx(np.array(first))


def test_a_draw_of_every_default_space_makes_a_configuration_that_differs() -> None:
    for objective in OBJECTIVES.values():
        base = base_config(objective, preset="tiny")
        space: SearchSpace = read_space(None, objective.tables, objective.space, base)
        draws = space.draws(3, seed=1)
        assert space.config(draws[0]) == base
        assert space.config(draws[1]) != base


def test_epochs_asked_for_by_name_are_not_taken_back() -> None:
    base = base_config(OBJECTIVES["two_tower"], preset="tiny", epochs=7, threads=3)
    assert base.two_tower_fit.epochs == 7
    assert base.two_tower_fit.max_examples >= 10**12
    assert base.threads == 3
    with pytest.raises(ConfigError, match="preset"):
        base_config(OBJECTIVES["two_tower"], preset="huge")
