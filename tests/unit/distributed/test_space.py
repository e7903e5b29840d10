"""The search space: what a TOML file may say, and what is drawn from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from corerec.config import read_toml, write_toml
from corerec.distributed.tune.objectives import OBJECTIVES, base_config, objective_of
from corerec.distributed.tune.search import SearchConfig, portable
from corerec.distributed.tune.space import SearchSpace, read_space
from corerec.errors import ConfigError, NotFound
from corerec.pipelines.config import TrainConfig, read_config

TOWER = OBJECTIVES["two_tower"]


def space_of(text: str, folder: Path) -> SearchSpace:
    path = folder / "search.toml"
    path.write_text(text)
    return read_space(path, TOWER.tables, TOWER.space, TrainConfig.tiny())


GOOD = """[space.two_tower]
dim = {choice = [16, 30, 32]}
heads = {choice = [2, 4]}
dropout = {uniform = [0.0, 0.3]}
[space.two_tower_fit]
learning_rate = {log_uniform = [1e-3, 1e-2]}
batch_windows = {log_uniform = [16, 64]}
"""


def test_draws_are_seeded_distinct_and_allowed_and_begin_with_the_base(tmp_path: Path) -> None:
    space = space_of(GOOD, tmp_path)
    draws = space.draws(30, seed=3)
    assert draws[0] == {
        "two_tower.dim": 16,
        "two_tower.heads": 2,
        "two_tower.dropout": 0.1,
        "two_tower_fit.learning_rate": 1e-2,
        "two_tower_fit.batch_windows": 64,
    }
    assert space.draws(30, seed=3) == draws
    assert space.draws(10, seed=3) == draws[:10]
    assert space.draws(30, seed=4)[1:] != draws[1:]
    assert len({json.dumps(d) for d in draws}) == 30
    for values in draws:
        config = space.config(values)  # dim is a multiple of heads in every one
        assert config.two_tower.dim == values["two_tower.dim"]
        assert 0 <= config.two_tower.dropout <= 0.3
        assert 1e-3 <= config.two_tower_fit.learning_rate <= 1e-2
        assert isinstance(config.two_tower_fit.batch_windows, int)
        assert 16 <= config.two_tower_fit.batch_windows <= 64


def test_a_small_space_is_drawn_whole_and_no_more(tmp_path: Path) -> None:
    space = space_of("[space.two_tower]\ndim = {choice = [16, 32]}\n", tmp_path)
    assert space.draws(100, seed=0) == [{"two_tower.dim": 16}, {"two_tower.dim": 32}]


def test_train_settings_of_the_file_are_shared_by_all_trials(tmp_path: Path) -> None:
    space = space_of(GOOD + "[train]\nseed = 7\n[train.two_tower_fit]\nepochs = 2\n", tmp_path)
    config = space.config(space.draws(2, seed=0)[1])
    assert (config.seed, config.two_tower_fit.epochs) == (7, 2)
    assert config.threads == 1  # what the file does not name stays


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("[space.two_tower]\ndimm = {choice = [8]}\n", 2, "did you mean 'dim'"),
        ("[space.towers]\ndim = {choice = [8]}\n", 1, "did you mean 'two_tower'"),
        ("[spaces]\n", 1, "did you mean 'space'"),
        ("[train]\nsead = 1\n", 2, "did you mean 'seed'"),
        ("[train.two_tower]\ndimm = 1\n", 2, "did you mean 'dim'"),
        ("[space.two_tower]\ndim = 8\n", 2, "must be one of"),
        ("[space.two_tower]\ndim = {choices = [8]}\n", 2, "must be one of"),
        ("[space.two_tower]\ndim = {choice = []}\n", 2, "not empty"),
        ("[space.two_tower]\ndim = {choice = ['8']}\n", 2, "valid integer"),
        ("[space.two_tower]\nheads = {choice = [2, 3]}\n", 2, "multiple of heads"),
        ("[space.two_tower]\ndropout = {uniform = [0.0, 1.0]}\n", 2, "[0, 1)"),
        ("[space.two_tower]\ndropout = {uniform = [0.3, 0.1]}\n", 2, "must ascend"),
        ("[space.two_tower]\ndropout = {log_uniform = [0.0, 0.1]}\n", 2, "above 0"),
        ("[space.two_tower]\ndim = {uniform = [1.5, 3.0]}\n", 2, "integers"),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, line: int, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as found:
        space_of(text, tmp_path)
    assert f"search.toml:{line}: " in str(found.value)
    assert says in str(found.value)


@pytest.mark.parametrize("model", sorted(OBJECTIVES))
def test_every_default_space_can_be_drawn(model: str) -> None:
    objective = objective_of(model)
    base = base_config(objective, epochs=3)
    space = read_space(None, objective.tables, objective.space, base)
    assert len(space.draws(20, seed=0)) == 20
    assert all(p.path.split(".")[0] in objective.tables for p in space.parameters)


def test_a_model_that_cannot_be_tuned_is_refused() -> None:
    with pytest.raises(NotFound, match="two_tower"):
        objective_of("three_tower")


def test_a_configuration_written_as_toml_trains_as_it_was(tmp_path: Path) -> None:
    config = replace(TrainConfig.tiny(), seed=5, unknown_items="drop")
    path = tmp_path / "best.toml"
    write_toml(path, portable(config), "Trial 3\nof 9")
    assert path.read_text().startswith("# Trial 3\n# of 9\n")
    assert read_config(path) == replace(config, threads=0)


def test_toml_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    values = {"a": 'x "y" \\ z', "b": [1, 2], "n": None, "t": {"on": True, "u": {"f": 1e-05}}}
    write_toml(tmp_path / "a.toml", values)
    del values["n"]
    assert read_toml(tmp_path / "a.toml") == values


@pytest.mark.parametrize("wrong", [{"trials": 0}, {"concurrent": -1}, {"reduction": 1}])
def test_a_search_out_of_range_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SearchConfig(**wrong)
