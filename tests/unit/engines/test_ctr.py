"""The tabular models: layers against loops, what they learn, calibration, tasks, bad rows."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from corerec.engines import DCN, DLRM
from corerec.engines.ctr import CtrModel
from corerec.engines.ctr_config import CtrFitConfig
from corerec.engines.ctr_examples import CtrExamples
from corerec.engines.ctr_fit import masked_loss
from corerec.engines.ctr_net import FieldEmbedding
from corerec.engines.dcn import CrossLayer, Dcn, DcnConfig, FullCrossLayer
from corerec.engines.dlrm import DlrmConfig, DlrmNet, dot_interaction
from corerec.errors import ConfigError, FailedPrecondition, InvalidArgument
from corerec.evaluation.metrics import expected_calibration_error

FIT = CtrFitConfig(epochs=4, batch_rows=64, learning_rate=1e-2)
SMALL: dict[type[CtrModel[Any]], Any] = {
    DCN: DcnConfig(cross_layers=2, cross_rank=None, deep=(16,), batch_norm=True, dropout=0.1),
    DLRM: DlrmConfig(bottom=(8,), top=(16,), batch_norm=True, dropout=0.1),
}
either = pytest.mark.parametrize("kind", [DCN, DLRM])


def table(rows: int = 600, seed: int = 0, tasks: int = 1) -> CtrExamples:
    """Rows whose label says whether two codes are the same; a number decides a second task."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(1, 6, (rows, 3)).astype(np.int32)
    number = rng.standard_normal((rows, 2)).astype(np.float32) * 50 + 7
    labels = np.stack([codes[:, 0] == codes[:, 1], number[:, 0] > 7], axis=1)[:, :tasks]
    return CtrExamples.of(codes, labels, numbers=number, cardinalities=(6, 6, 6))


def make(kind: type[CtrModel[Any]], **more: Any) -> CtrModel[Any]:
    return kind(8, **{"config": SMALL[kind], "training": FIT, "device": "cpu", **more})


@pytest.mark.parametrize("rank", [2, None])
def test_the_cross_network_equals_the_paper_in_numpy(rank: int | None) -> None:
    torch.manual_seed(0)
    layers = [CrossLayer(5, rank) if rank else FullCrossLayer(5) for _ in range(3)]
    x0 = torch.randn(4, 5)
    x, expected = x0, x0.numpy().copy()
    for layer in layers:
        with torch.no_grad():
            layer.bias.normal_()
        x = layer(x0, x)
        matrix = layer.u @ layer.v.T if rank else layer.weight
        weight = matrix.detach().numpy()
        for row in range(4):
            inner = weight @ expected[row] + layer.bias.detach().numpy()
            expected[row] = x0[row].numpy() * inner + expected[row]
    np.testing.assert_allclose(x.detach().numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [3, 0, None])
@pytest.mark.parametrize("structure", ["parallel", "stacked"])
def test_the_deep_part_reads_the_input_or_the_crosses(rank: int | None, structure: str) -> None:
    torch.manual_seed(0)
    config = DcnConfig(cross_rank=rank, structure=structure, deep=(4,), dropout=0.0)
    dcn = Dcn(6, config, tasks=2).eval()
    x0 = torch.randn(5, 6)
    crossed = x0
    for layer in dcn.cross:
        crossed = layer(x0, crossed)
    read = x0 if structure == "parallel" else crossed
    expected = dcn.deep_head(dcn.deep[0](read).relu())
    if structure == "parallel":
        expected = expected + dcn.cross_head(crossed)
    else:
        assert dcn.cross_head is None
    torch.testing.assert_close(dcn(x0), expected)
    assert dcn(x0[:0]).shape == (0, 2)


def test_dot_products_equal_explicit_loops() -> None:
    vectors = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    found = dot_interaction(vectors).numpy()
    assert found.shape == (3, 10)
    pairs = [(i, j) for i in range(5) for j in range(i)]
    assert {frozenset(p) for p in pairs} == {frozenset(p) for p in combinations(range(5), 2)}
    for row in range(3):
        for place, (i, j) in enumerate(pairs):
            expected = float(sum(vectors[row, i, d] * vectors[row, j, d] for d in range(4)))
            assert found[row, place] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("passed", [False, True])
@pytest.mark.parametrize("numbers", [0, 3])
def test_dlrm_joins_the_bottom_the_dots_and_the_top(numbers: int, passed: bool) -> None:
    torch.manual_seed(0)
    config = DlrmConfig(bottom=(6,), top=(7,), pass_vectors=passed, dropout=0.0)
    net = DlrmNet(4, 5, numbers, config, tasks=2).eval()
    vectors, dense = torch.randn(3, 4, 5), torch.randn(3, numbers)
    own = [vectors[:, i] for i in range(4)]
    if numbers:
        own.insert(0, net.bottom(dense))
    dots = [(own[i] * own[j]).sum(1, keepdim=True) for i in range(len(own)) for j in range(i)]
    shown = own if passed else own[: int(numbers > 0)]
    expected = net.head(net.top(torch.cat([*shown, *dots], 1)))
    torch.testing.assert_close(net(vectors, dense), expected, rtol=1e-4, atol=1e-5)
    assert (net.bottom is None) == (numbers == 0)


def test_unknown_codes_are_the_missing_one() -> None:
    torch.manual_seed(0)
    fields = FieldEmbedding((3, 4), 2, std=1.0)
    rows = fields.rows(torch.tensor([[0, 0], [2, 3], [3, 4], [-1, 99]]))
    assert rows.tolist() == [[0, 3], [2, 6], [0, 3], [0, 3]]
    assert fields(torch.tensor([[0, 9]])).abs().sum() == 0


@either
def test_rows_with_unknown_codes_score_as_missing_ones(kind: type[CtrModel[Any]]) -> None:
    model = make(kind).fit(table())
    row = table(1)
    unknown = replace(row, codes=np.array([[1, 77, -3]]))
    missing = replace(row, codes=np.array([[1, 0, 0]]))
    assert np.array_equal(model.predict(unknown), model.predict(missing))
    assert np.isfinite(model.predict(unknown)).all()


@either
def test_it_learns_and_batches_of_any_size_give_the_same(kind: type[CtrModel[Any]]) -> None:
    training = replace(FIT, epochs=12)
    model = make(kind, training=training).fit(table(1500), validation=table(300, seed=1))
    assert model.validation["click"]["auc"] > 0.95
    rows = table(7, seed=2)
    together = model.predict(rows)
    assert together.shape == (7, 1)
    for place in range(7):
        alone = model.predict(rows.take(np.array([place])))
        np.testing.assert_allclose(alone[0], together[place], atol=1e-6)
    none = rows.take(np.arange(0))
    assert model.predict(none).shape == (0, 1)
    assert model.score(none).shape == (0,)


@either
def test_a_single_row_can_be_learned_from(kind: type[CtrModel[Any]]) -> None:
    model = make(kind).fit(table(1))
    assert np.isfinite(model.predict(table(3))).all()


def test_a_task_that_is_not_observed_moves_nothing() -> None:
    logits = torch.randn(6, 2, requires_grad=True)
    labels, observed = torch.ones(6, 2), torch.tensor([[1.0, 0.0]]).repeat(6, 1)
    masked_loss(logits, labels, observed, torch.ones(2)).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 0] != 0).all()
    assert (logits.grad[:, 1] == 0).all()


@either
def test_masked_labels_have_no_influence(kind: type[CtrModel[Any]]) -> None:
    data = table(tasks=2)
    assert data.labels is not None
    observed = np.random.default_rng(0).random(data.labels.shape) < 0.6
    turned = np.where(observed, data.labels, 1 - data.labels)
    models = [
        make(kind, tasks=("same", "high")).fit(replace(data, labels=labels, observed=observed))
        for labels in (data.labels, turned)
    ]
    assert np.array_equal(models[0].predict(data), models[1].predict(data))
    # A task that is never observed keeps the head that it began with.
    never = replace(data, observed=np.array([[True, False]]).repeat(len(data), 0))
    heads = [
        _heads(make(kind, tasks=("same", "high"), training=replace(FIT, epochs=epochs)).fit(never))
        for epochs in (1, 4)
    ]
    assert torch.equal(heads[0][1], heads[1][1])
    assert not torch.equal(heads[0][0], heads[1][0])


def _heads(model: CtrModel[Any]) -> torch.Tensor:
    core = model.net.core
    return core.head.weight if isinstance(core, DlrmNet) else core.dcn.deep_head.weight


@either
def test_two_tasks_share_a_bottom_and_make_one_score(kind: type[CtrModel[Any]]) -> None:
    model = make(
        kind,
        tasks=("same", "high"),
        objective="same + 2 * high",
        training=replace(FIT, epochs=12, task_weights=(1.0, 0.5)),
    )
    model.fit(table(1500, tasks=2), validation=table(300, seed=1, tasks=2))
    assert all(own["auc"] > 0.9 for own in model.validation.values())
    rows = table(20, seed=2)
    found = model.predict(rows)
    np.testing.assert_allclose(model.score(rows), found[:, 0] + 2 * found[:, 1], rtol=1e-5)


def test_calibration_repairs_probabilities_without_changing_the_order() -> None:
    rng = np.random.default_rng(0)

    def noisy(rows: int) -> CtrExamples:
        codes = rng.integers(1, 40, (rows, 2))
        return CtrExamples.of(codes, rng.random(rows) < codes[:, 0] / 60)

    # Few rows learned by heart, the last epoch kept: the model is far too sure.
    few, held = noisy(300), noisy(2000)
    epochs = iter(range(99))
    training = replace(FIT, epochs=30)
    model = make(DCN, training=training).fit(
        few, validation=held, validate=lambda _: float(next(epochs))
    )
    found = model.validation["click"]
    assert found["ece"] < 0.5 * found["ece_before"]
    assert found["logloss"] < found["logloss_before"]
    logits, said = model.logits(held)[:, 0], model.predict(held)[:, 0]
    assert (np.diff(said[np.argsort(logits)]) >= 0).all()
    right = held.labels[:, 0].astype(int)
    assert expected_calibration_error(right, said) == pytest.approx(found["ece"], abs=1e-3)
    assert make(DCN).fit(few).validation == {}


@either
def test_early_stopping_keeps_the_best_epoch(kind: type[CtrModel[Any]]) -> None:
    seen: list[np.ndarray] = []

    def judge(model: CtrModel[Any]) -> float:
        seen.append(model.predict(table(9, seed=4)))
        return [0.1, 0.9, 0.3, 0.2][len(seen) - 1]

    model = make(kind, training=replace(FIT, epochs=9, patience=2)).fit(table(), validate=judge)
    assert len(seen) == 4
    assert model.best_epoch == 1
    assert np.array_equal(model.predict(table(9, seed=4)), seen[1])


@pytest.mark.parametrize("more", [{"average": 0.9}, {"hide": 0.2}, {"sparse_above": 3}])
@either
def test_a_resumed_run_equals_an_unbroken_one(
    kind: type[CtrModel[Any]], more: dict[str, Any], tmp_path: Path
) -> None:
    training = replace(FIT, **more)
    whole = make(kind, training=training).fit(table(), validation=table(99, seed=1))

    def stop(done: int, total: int, _: str) -> None:
        if done > 0.6 * total:
            raise KeyboardInterrupt

    file = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        make(kind, training=training).fit(
            table(), validation=table(99, seed=1), checkpoint=file, report=stop
        )
    again = make(kind, training=training)
    again.fit(table(), validation=table(99, seed=1), checkpoint=file)
    assert again.epochs == whole.epochs
    assert np.array_equal(again.predict(table()), whole.predict(table()))


@either
def test_what_is_loaded_is_what_was_saved(kind: type[CtrModel[Any]], tmp_path: Path) -> None:
    model = make(kind, tasks=("same", "high"), objective="same * high")
    model.fit(table(tasks=2), validation=table(99, seed=1, tasks=2)).save(tmp_path)
    again = kind.load(tmp_path, device="cpu")
    rows = table(50, seed=3)
    assert np.array_equal(again.predict(rows), model.predict(rows))
    assert np.array_equal(again.score(rows), model.score(rows))
    assert (again.tasks, again.config) == (model.tasks, model.config)
    assert again.validation == model.validation


def test_training_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    make(DCN).fit(table(50))
    assert torch.equal(before, torch.get_rng_state())


def test_mapped_arrays_are_learned_from_and_asked_about(tmp_path: Path) -> None:
    data = table()
    np.save(tmp_path / "codes.npy", data.codes)
    mapped = replace(data, codes=np.load(tmp_path / "codes.npy", mmap_mode="r"))
    assert np.array_equal(make(DCN).fit(mapped).predict(mapped), make(DCN).fit(data).predict(data))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"numbers": np.array([[1.0, np.nan]])}, "numbers must be finite, row 0, column 1 is NaN"),
        ({"numbers": np.array([[np.inf, 0.0]])}, "numbers must be finite, row 0, column 0 is inf"),
        ({"labels": np.array([[np.nan]])}, r"labels must be in \[0, 1\], row 0, column 0 is NaN"),
        ({"labels": np.array([[2.0]])}, r"labels must be in \[0, 1\], row 0, column 0 is 2"),
        ({"labels": np.zeros((2, 1))}, "labels must have 1 rows"),
        ({"codes": np.array([[0.5, 1.0, 2.0]])}, "codes must be integers, got float64"),
        ({"codes": np.array([1, 2, 3])}, r"codes must be \(P, F\)"),
        ({"observed": np.ones((1, 2), bool)}, "observed must have the shape of labels"),
        ({"cardinalities": (2, 2)}, "cardinalities must be 3"),
    ],
)
def test_bad_rows_are_refused(more: dict[str, Any], said: str) -> None:
    fields = {"codes": np.array([[1, 2, 3]]), "labels": np.ones((1, 1)), **more}
    with pytest.raises(InvalidArgument, match=said):
        CtrExamples.of(fields.pop("codes"), fields.pop("labels"), **fields)


def test_rows_that_do_not_fit_are_refused() -> None:
    model = make(DCN).fit(table())
    with pytest.raises(InvalidArgument, match=r"3 codes and 2 numbers.*got 3 and 0"):
        model.predict(replace(table(), numbers=None))
    with pytest.raises(InvalidArgument, match=r"labels must be \(P, 1\)"):
        make(DCN).fit(table(tasks=2))
    with pytest.raises(InvalidArgument, match="labels must be"):
        make(DCN).fit(replace(table(), labels=None))
    with pytest.raises(InvalidArgument, match="at least one row"):
        make(DCN).fit(table().take(np.arange(0)))
    one_class = replace(table(), labels=np.ones((600, 1), np.float32))
    with pytest.raises(InvalidArgument, match="both classes"):
        make(DCN).fit(table(), validation=one_class)
    with pytest.raises(FailedPrecondition, match="call fit first"):
        make(DCN).predict(table())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"objective": "clik"}, "unknown task 'clik'"),
        ({"tasks": ("a", "a")}, "distinct"),
        ({"training": CtrFitConfig(task_weights=(1.0, 2.0))}, "task_weights must be 1"),
    ],
)
def test_wrong_arguments_are_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make(DCN, **more)
    with pytest.raises(ConfigError, match="embedding_dim"):
        DCN(0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 0), ("hide", 1.0), ("learning_rate", 0.0), ("embedding_l2", float("nan")),
     ("metric", "f1"), ("precision", "float16"), ("task_weights", (-1.0,))],
)  # fmt: skip
def test_training_out_of_range_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        CtrFitConfig(**{name: value})


def test_a_loss_that_is_not_finite_says_what_to_do() -> None:
    with pytest.raises(FailedPrecondition, match="lower learning_rate"):
        make(DCN, training=replace(FIT, learning_rate=1e30)).fit(table())


def test_an_objective_that_is_not_finite_names_the_row() -> None:
    model = make(DCN, objective="(0.6 - click) ** 0.5", training=replace(FIT, epochs=12))
    model.fit(table())
    with pytest.raises(InvalidArgument, match=r"must be finite, row \d+ gave nan"):
        model.score(table())
