"""Training: it learns, the same seed gives the same weights, a killed run ends where it would."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ranking_world import CONFIG, World

from corerec.errors import InvalidArgument
from corerec.ranking.files import load_ranker, save_ranker
from corerec.ranking.model import RankingModel
from corerec.ranking.train import RankerFit, RankerFitConfig, train_ranker

FIT = RankerFitConfig(epochs=4, batch_cases=32, learning_rate=1e-2, patience=4, id_decay=0.0)


class Killed(Exception):
    """Stands for a kill in the middle of a training."""


def train(world: World, **more: object) -> RankerFit:
    arguments: dict[str, object] = {"config": CONFIG, "fit": FIT, "seed": 3, **more}
    return train_ranker(
        world.examples,
        world.validation,
        tables=world.tables(),
        users=world.users,
        popularity=world.popularity,
        **arguments,
    )


def weights(model: RankingModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(first: RankerFit, second: RankerFit) -> None:
    assert first.epochs == second.epochs
    for name, tensor in weights(first.model).items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name


def test_it_learns_what_follows_what(either_world: World) -> None:
    fit = train(either_world, fit=replace(FIT, epochs=8, patience=8))
    assert fit.epochs[-1]["loss"] < 0.5 * fit.epochs[0]["loss"]
    assert fit.auc > 0.95
    base_rate = 1 / either_world.validation.candidates.shape[1]
    entropy = -(base_rate * np.log(base_rate) + (1 - base_rate) * np.log(1 - base_rate))
    assert fit.logloss < 0.6 * entropy


def test_the_same_seed_gives_the_same_weights_and_another_does_not(world: World) -> None:
    first, second, other = train(world), train(world), train(world, seed=4)
    assert_same(first, second)
    name = "item.weight"
    assert not torch.equal(first.model.state_dict()[name], other.model.state_dict()[name])


@pytest.mark.parametrize("at_step", [5, 9, 15])
def test_a_killed_run_ends_where_an_unbroken_one_does(
    world: World, tmp_path: Path, at_step: int
) -> None:
    checkpoint = tmp_path / "ranker.ckpt.safetensors"

    def kill(done: int, total: int, note: str) -> None:
        if done == at_step:
            raise Killed

    with pytest.raises(Killed):
        train(world, checkpoint=checkpoint, report=kill)
    seen: list[int] = []
    resumed = train(world, checkpoint=checkpoint, report=lambda done, *_: seen.append(done))
    assert_same(resumed, train(world))
    assert seen[0] > 1, "the finished epochs are not trained again"


def test_the_checkpoint_of_another_run_is_ignored(world: World, tmp_path: Path) -> None:
    checkpoint = tmp_path / "ranker.ckpt.safetensors"
    train(world, checkpoint=checkpoint, seed=1)
    assert_same(train(world, checkpoint=checkpoint), train(world))


def test_training_leaves_the_global_random_state_alone(world: World) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    train(world, fit=replace(FIT, epochs=1))
    assert torch.equal(before, torch.get_rng_state())


def test_saved_and_loaded_weights_are_bit_equal(world: World, tmp_path: Path) -> None:
    model = world.model()
    save_ranker(model, tmp_path / "w.safetensors", tmp_path / "c.json")
    again = load_ranker(world.schema, tmp_path / "w.safetensors", tmp_path / "c.json")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_weights_of_another_shape_or_not_finite_are_refused(world: World, tmp_path: Path) -> None:
    model = world.model()
    files = tmp_path / "w.safetensors", tmp_path / "c.json"
    save_ranker(model, *files)
    with pytest.raises(InvalidArgument, match="does not fit"):
        load_ranker(replace(world.schema, user_count=3), *files)
    with torch.no_grad():
        model.user.weight[0, 0] = torch.nan
    with pytest.raises(InvalidArgument, match=r"user\.weight"):
        save_ranker(model, *files)


def test_no_cases_are_refused(world: World) -> None:
    with pytest.raises(InvalidArgument, match="must not be empty"):
        train(replace(world, examples=world.examples.take(np.arange(0))))
