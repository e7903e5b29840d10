"""Every network and any number of tasks: trained, released, served as the plain model scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranking_world import CONFIG, TOWER, World, write_release
from safetensors.torch import load_file, save_file
from test_ranking_core import make_entry, ok, scores_by_item

from corerec.engines.dcn import DcnConfig, listwise_loss, logistic_loss
from corerec.engines.dlrm import DlrmConfig
from corerec.errors import ConfigError, FailedPrecondition, InvalidArgument
from corerec.ranking.core import RankingCore
from corerec.ranking.examples import RankingExamples
from corerec.ranking.files import load_ranker
from corerec.ranking.folded import FoldedRanker, PlainRanker, precisions_of, serving_form
from corerec.ranking.losses import ndcg_at_10, pair_auc, ranker_loss
from corerec.ranking.model import RankingModel, RankingModelConfig
from corerec.ranking.prepare import PreparedExamples
from corerec.ranking.train import RankerFitConfig, train_ranker

TASKS = {"tasks": ("click", "like"), "objective": "click + 5 * like ** 0.5"}
NETWORKS: dict[str, dict[str, Any]] = {
    "dcn": {},
    "full": {"dcn": DcnConfig(cross_rank=None, deep=(12, 8))},
    "stacked": {"dcn": DcnConfig(cross_rank=4, deep=(12, 8), structure="stacked")},
    "normalised": {"dcn": DcnConfig(cross_rank=4, deep=(12, 8), batch_norm=True)},
    "dlrm": {"network": "dlrm", "dlrm": DlrmConfig(bottom=(8,), top=(12, 8))},
    "dlrm with vectors": {
        "network": "dlrm",
        "dlrm": DlrmConfig(bottom=(), top=(12,), batch_norm=True, pass_vectors=True),
    },
}
every_network = pytest.mark.parametrize("network", NETWORKS)
any_tasks = pytest.mark.parametrize("tasks", [{}, TASKS], ids=["one task", "two tasks"])


def make_model(world: World, **more: Any) -> RankingModel:
    """A model whose every weight matters."""
    torch.manual_seed(0)
    model = RankingModel(world.schema, replace(CONFIG, **more), TOWER)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name != "history.weight":
                weight.add_(torch.randn_like(weight) * 0.15)
        model.pair_std.uniform_(0.5, 2)
        model.calibration.copy_(torch.randn(len(model.calibration), 2) * 0.3 + 1)
    return model.eval()


@every_network
@any_tasks
def test_it_is_served_as_the_plain_model_scores(
    world: World, tmp_path: Path, network: str, tasks: dict[str, Any]
) -> None:
    model = make_model(world, **NETWORKS[network], **tasks)
    tables = world.tables()
    form = serving_form(model, tables)
    assert isinstance(form, PlainRanker if network == "full" else FoldedRanker)
    prepared = PreparedExamples.compute(world.examples, tables, world.users, world.popularity)
    batch, pairs = prepared.batch(np.arange(20))
    with torch.no_grad():
        plain = model(tables, batch, pairs)
        assert plain.shape == (len(model.config.tasks), 20, 7)
        assert plain.std() > 0.01
        torch.testing.assert_close(form(batch, pairs), plain, rtol=1e-4, atol=1e-5)
        half = serving_form(model, tables, "bf16")(batch, pairs)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, plain, rtol=0.05, atol=0.05)

    release = write_release(world, model, tmp_path)
    core = RankingCore.load(release, device="cpu")
    entries = [make_entry(seed, count) for seed, count in enumerate((20, 1, 40, 17))]
    for entry, result in zip(entries, core.run(entries), strict=True):
        found = ok(result).candidates
        assert sorted(found.numbers) == sorted(entry.candidates.numbers)
        assert (np.diff(found.scores) <= 0).all()
        alone = scores_by_item(core.run([entry])[0])
        assert scores_by_item(result) == pytest.approx(alone, abs=1e-5)
    core.warm()


@any_tasks
def test_the_score_is_the_objective_over_calibrated_probabilities(
    world: World, tasks: dict[str, Any]
) -> None:
    model = make_model(world, **tasks)
    logits = torch.randn(len(model.config.tasks), 3, 4)
    scale, bias = model.calibration.T.numpy()
    p = [
        1 / (1 + np.exp(-(s * z + b))) for s, z, b in zip(scale, logits.numpy(), bias, strict=True)
    ]
    expected = p[0] + 5 * p[1] ** 0.5 if tasks else p[0]
    np.testing.assert_allclose(model.score(logits).detach().numpy(), expected, rtol=1e-5)
    assert model.ranks_by_probability == (not tasks)


def test_a_formula_may_turn_one_task_round(world: World, tmp_path: Path) -> None:
    plain, turned = tmp_path / "plain", tmp_path / "turned"
    orders = []
    for folder, objective in ((plain, ""), (turned, "1 - interaction")):
        folder.mkdir()
        release = write_release(world, make_model(world, objective=objective), folder)
        core = RankingCore.load(release, device="cpu")
        orders.append(ok(core.run([make_entry(1)])[0]).candidates.numbers.tolist())
    assert orders[0] == orders[1][::-1]


@every_network
def test_it_learns_and_goes_on_where_it_was_killed(
    world: World, tmp_path: Path, network: str
) -> None:
    config = replace(CONFIG, **NETWORKS[network])
    fit = RankerFitConfig(
        epochs=6, batch_cases=32, learning_rate=1e-2, patience=6, id_decay=0.0, listwise=0.5
    )

    def train(**more: Any) -> Any:
        return train_ranker(
            world.examples,
            world.validation,
            tables=world.tables(),
            users=world.users,
            popularity=world.popularity,
            config=config,
            fit=fit,
            **more,
        )

    def kill(done: int, total: int, note: str) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(checkpoint=tmp_path / "c.safetensors", report=kill)
    resumed, whole = train(checkpoint=tmp_path / "c.safetensors"), train()
    assert resumed.epochs == whole.epochs
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    assert whole.auc > 0.85
    found = whole.tasks["interaction"]
    assert set(found) == {"auc", "logloss", "logloss_before", "ece", "ece_before"}
    assert found["logloss"] <= found["logloss_before"] + 1e-6
    assert whole.logloss == pytest.approx(found["logloss"])


def test_an_unknown_precision_is_refused(world: World) -> None:
    with pytest.raises(InvalidArgument, match=r"one of fp32, bf16, int8, got 'fp16'"):
        serving_form(make_model(world), world.tables(), "fp16")  # type: ignore[arg-type]


@pytest.mark.parametrize("network", ["dlrm", "full"])
def test_a_network_without_a_form_in_8_bits_says_so(world: World, network: str) -> None:
    model = make_model(world, **NETWORKS[network])
    with pytest.raises(FailedPrecondition, match=r"low-rank DCN-v2 on a CPU int8, got 'int8'"):
        serving_form(model, world.tables(), "int8")
    assert "int8" not in precisions_of(model, torch.device("cpu"))


def test_a_gpu_has_no_form_in_8_bits(world: World) -> None:
    model = make_model(world)
    assert precisions_of(model, torch.device("cuda")) == ("fp32", "bf16")
    assert precisions_of(model, torch.device("cpu")) == ("fp32", "bf16", "int8")


def labelled(cases: RankingExamples, rare: float) -> RankingExamples:
    """Every positive is a click; those of even items are likes too."""
    likes = cases.candidates[:, 0] % 2 == 0
    return replace(cases, labels=np.stack([np.ones(len(cases)), likes * rare], 1).astype("f4"))


def test_two_tasks_learn_from_their_own_labels(world: World) -> None:
    fit = train_ranker(
        labelled(world.examples, 1.0),
        labelled(world.validation, 1.0),
        tables=world.tables(),
        users=world.users,
        popularity=world.popularity,
        config=replace(CONFIG, tasks=("click", "like"), objective="like"),
        fit=RankerFitConfig(
            epochs=10, batch_cases=32, learning_rate=1e-2, patience=10, id_decay=0.0, listwise=0.2
        ),
    )
    assert fit.tasks["click"]["auc"] > 0.9
    assert fit.tasks["like"]["auc"] > 0.9
    prepared = PreparedExamples.compute(
        world.validation, world.tables(), world.users, world.popularity
    )
    batch, pairs = prepared.batch(np.arange(len(prepared)))
    with torch.no_grad():
        click, like = fit.model.probability(fit.model(prepared.tables, batch, pairs)).numpy()
    even = world.validation.candidates[:, 0] % 2 == 0
    assert like[even, 0].mean() > 2 * like[~even, 0].mean()
    assert click[~even, 0].mean() > 2 * like[~even, 0].mean()


def test_losses_of_tasks_equal_those_of_one_where_every_positive_counts() -> None:
    logits = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([1.0, 3.0])
    expected = sum(
        w * (0.7 * listwise_loss(own) + 0.3 * logistic_loss(own))
        for w, own in zip((1, 3), logits, strict=True)
    )
    for labels in (None, torch.ones(2, 5)):
        torch.testing.assert_close(ranker_loss(logits, labels, weights, 0.7), expected)
    # No positive of the second task: only its logistic part is left, all of it negatives.
    labels = torch.stack([torch.ones(5), torch.zeros(5)])
    found = ranker_loss(logits, labels, torch.tensor([0.0, 1.0]), 0.7)
    torch.testing.assert_close(found, 0.3 * torch.nn.functional.softplus(logits[1]).mean())


def test_metrics_of_cases_equal_naive_loops() -> None:
    scores = np.random.default_rng(0).integers(0, 9, (30, 20)).astype(np.float32)
    gain, right = 0.0, 0.0
    for row in scores:
        above = sum(other >= row[0] for other in row[1:])
        gain += 1 / np.log2(above + 2) if above < 10 else 0
        right += np.mean([(row[0] > o) + 0.5 * (row[0] == o) for o in row[1:]])
    assert ndcg_at_10(scores) == pytest.approx(gain / 30)
    assert pair_auc(scores) == pytest.approx(right / 30)


def test_releases_from_before_there_were_tasks_still_load(world: World, tmp_path: Path) -> None:
    model = make_model(world)
    write_release(world, model, tmp_path)
    weights = load_file(tmp_path / "ranker.safetensors")
    weights["calibration"] = weights["calibration"].view(2).clone()
    save_file(weights, tmp_path / "ranker.safetensors")
    again = load_ranker(world.schema, tmp_path / "ranker.safetensors", tmp_path / "ranker.json")
    assert torch.equal(again.calibration, model.calibration)


def test_wrong_settings_and_labels_are_refused(world: World) -> None:
    for wrong, said in (
        ({"network": "mlp"}, "network must be dcn or dlrm, got 'mlp'"),
        ({"tasks": ()}, "tasks must be"),
        ({"objective": "buy"}, "unknown task 'buy'"),
    ):
        with pytest.raises(ConfigError, match=said):
            RankingModelConfig(**wrong)
    with pytest.raises(InvalidArgument, match=r"labels must be \(120, T\)"):
        replace(world.examples, labels=np.ones((3, 2), np.float32))
    with pytest.raises(InvalidArgument, match=r"labels must be in \[0, 1\], without NaN"):
        replace(world.examples, labels=np.full((120, 1), np.nan, np.float32))
    with pytest.raises(InvalidArgument, match="a column for each of"):
        train_ranker(
            labelled(world.examples, 1.0),
            world.validation,
            tables=world.tables(),
            users=world.users,
            popularity=world.popularity,
            config=CONFIG,
        )
    assert labelled(world.examples, 1.0).take(np.arange(3)).labels.shape == (3, 2)
    assert world.examples.take(np.arange(3)).labels is None
