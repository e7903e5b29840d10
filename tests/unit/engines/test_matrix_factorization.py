"""Matrix factorization against dense algebra, and what folding users in promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from corerec.cf_engine import (
    BprFitConfig,
    IalsFitConfig,
    MatrixFactorization,
    MatrixFactorizationConfig,
)
from corerec.engines.ials import IalsTrainer, Ridge, solve_exactly
from corerec.engines.pairs import pairs_of
from corerec.engines.sequences import Sequences
from corerec.errors import ConfigError, InvalidArgument
from corerec.evaluation.baselines import TopPop
from corerec.evaluation.ranked import full_ranking, scorer
from corerec.stages import Float32s, UserContext

RIDGE = Ridge(unobserved_weight=0.2, regularisation=0.05, frequency_power=0.7)


def random_events(users: int = 30, items: int = 20, events: int = 200) -> Sequences:
    rng = np.random.default_rng(0)
    return Sequences.of(
        rng.integers(users, size=events),
        rng.integers(items, size=events),
        user_count=users + 1,  # one without events
        item_count=items + 1,
    )


def two_tastes(users: int = 60, items: int = 40) -> tuple[Sequences, Sequences]:
    """Return training events and the rest: even users take even items, the others odd ones."""
    rng = np.random.default_rng(1)
    weights = 1.0 / np.arange(1, items // 2 + 1)
    rows, found = [], []
    for user in range(users):
        own = rng.choice(items // 2, 8, replace=False, p=weights / weights.sum())
        rows += [user] * 8
        found += (2 * own + user % 2).tolist()
    row, item = np.array(rows), np.array(found)
    late = np.arange(len(row)) % 8 == 7
    sizes = {"user_count": users, "item_count": items}
    return (
        Sequences.of(row[~late], item[~late], **sizes),
        Sequences.of(row[late], item[late], **sizes),
    )


def dense_solution(weights: Float32s, fixed: Float32s, others: int) -> Float32s:
    """Return the minimiser of the objective for each row of a dense (R, N) matrix of weights."""
    found = np.zeros((len(weights), fixed.shape[1]))
    for row, own in enumerate(weights.astype(np.float64)):
        y = fixed.astype(np.float64)
        penalty = 0.05 * ((own > 0).sum() + 0.2 * others) ** 0.7
        left = y.T @ np.diag(own + 0.2) @ y + penalty * np.eye(y.shape[1])
        found[row] = np.linalg.solve(left, y.T @ own)
    return found.astype(np.float32)


def dense(events: Sequences, weights: Float32s) -> Float32s:
    found = np.zeros((events.user_count, events.item_count), np.float32)
    np.add.at(found, (events.users, events.items), weights)
    return found


@pytest.mark.parametrize("k", [1, 5, 8, 13])
@pytest.mark.parametrize("solver", ["cg", "cholesky"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_half_step_solves_the_normal_equations(k: int, solver: str, weighted: bool) -> None:
    events = random_events()
    rng = np.random.default_rng(2)
    weights = rng.random(len(events)).astype(np.float32) + 0.5 if weighted else None
    pairs = pairs_of(events, weights, "sum")
    fit = IalsFitConfig(solver=solver, cg_steps=60)  # type: ignore[arg-type]
    trainer = IalsTrainer(pairs, k, RIDGE, fit, 0)
    start = trainer.items[:, :k].copy()
    trainer.epoch(0, lambda _: None)
    matrix = dense(events, np.ones(len(events), np.float32) if weights is None else weights)
    users = dense_solution(matrix, start, events.item_count)
    assert np.allclose(trainer.users[:, :k], users, atol=1e-4)
    items = dense_solution(matrix.T, trainer.users[:, :k], events.user_count)
    assert np.allclose(trainer.items[:, :k], items, atol=1e-4)
    assert not trainer.items[:, k:].any()


def test_three_steps_of_conjugate_gradients_come_to_the_exact_factorization() -> None:
    events = random_events()
    found = []
    for solver in ("cg", "cholesky"):
        model = MatrixFactorization(
            8,
            config=MatrixFactorizationConfig(regularisation=0.05),
            training=IalsFitConfig(solver=solver, epochs=60),  # type: ignore[arg-type]
        ).fit(events)
        users = model.encode_users(events.contexts(np.arange(events.user_count)))
        found.append(users @ model.encode_items().T)
    assert np.abs(found[0] - found[1]).max() < 0.05


def test_a_known_user_is_folded_in_to_his_half_step() -> None:
    events = random_events()
    model = MatrixFactorization(6, training=IalsFitConfig(epochs=3)).fit(events)
    pairs = pairs_of(events, None, "once")
    ridge = Ridge(unobserved_weight=0.1, regularisation=0.005, frequency_power=1.0)
    items = model.encode_items()
    expected = solve_exactly(
        pairs.users, items, ridge.gram(items), ridge.penalties(pairs.users.counts, len(items))
    )
    found = model.encode_users(events.contexts(np.arange(30)))
    assert np.allclose(found, expected[:30], atol=1e-5)


def test_the_order_of_a_history_and_its_repeats_play_no_part() -> None:
    model = MatrixFactorization(6).fit(random_events())
    histories = ([3, 1, 2], [1, 2, 3], [2, 3, 3, 1, 1])
    found = model.encode_users([UserContext(items=np.array(h)) for h in histories])
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_repeats_count_once_or_add_up() -> None:
    users, items = np.array([0, 0, 0, 1, 1]), np.array([2, 0, 2, 1, 1])
    events = Sequences.of(users, items, item_count=4)
    once = pairs_of(events, None, "once")
    assert once.users.columns.tolist() == [0, 2, 1]
    assert once.users.offsets.tolist() == [0, 2, 3]
    assert len(once.users.weights) == 0
    assert once.items.offsets.tolist() == [0, 1, 2, 3, 3]
    assert once.items.columns.tolist() == [0, 1, 0]
    summed = pairs_of(events, None, "sum")
    assert summed.users.weights.tolist() == [1, 2, 2]
    assert summed.items.weights.tolist() == [1, 2, 2]
    weights = np.array([0.5, 1, 2, 1, 4], np.float32)
    assert pairs_of(events, weights, "once").users.weights.tolist() == [1, 2, 4]
    assert pairs_of(events, weights, "sum").users.weights.tolist() == [1, 2.5, 5]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 0.0, -1.0])
def test_weights_that_are_not_finite_and_above_0_are_refused(wrong: float) -> None:
    events = random_events()
    weights = np.ones(len(events), np.float32)
    weights[7] = wrong
    with pytest.raises(InvalidArgument, match=r"must be finite and above 0, got .* at 7"):
        MatrixFactorization(4).fit(events, weights=weights)
    with pytest.raises(InvalidArgument, match=r"a column of 200 values, got \(3,\)"):
        MatrixFactorization(4).fit(events, weights=weights[:3])


def test_no_events_are_refused() -> None:
    empty = np.empty(0, np.int64)
    with pytest.raises(InvalidArgument, match="at least one event"):
        MatrixFactorization(4).fit(Sequences.of(empty, empty, user_count=3, item_count=3))


@pytest.mark.parametrize(
    ("config", "training"),
    [
        (MatrixFactorizationConfig(k=6, unobserved_weight=0.3, regularisation=0.02), None),
        (
            MatrixFactorizationConfig(k=6, loss="bpr", regularisation=0.01),
            BprFitConfig(epochs=60),
        ),
        (
            MatrixFactorizationConfig(k=6, loss="bpr", regularisation=0.01),
            BprFitConfig(epochs=60, popularity=0.5),
        ),
    ],
)
def test_tastes_are_learned_where_popularity_knows_none(
    config: MatrixFactorizationConfig, training: BprFitConfig | None
) -> None:
    train, test = two_tastes()
    model = MatrixFactorization(config=config, training=training).fit(train)
    popular = full_ranking(scorer(TopPop().fit(train), train), test, train, ks=(5,))
    found = full_ranking(scorer(model, train), test, train, ks=(5,))
    assert found["ndcg@5"] > popular["ndcg@5"] + 0.05
    # Users who were not there at training have the same tastes.
    new = model.recommend([UserContext(items=np.array([0, 4, 6, 8]))], 5)
    assert (new.numbers % 2 == 0).mean() >= 0.8


@pytest.mark.parametrize("loss", ["ials", "bpr"])
def test_a_user_without_history_gets_popular_items(loss: str) -> None:
    train, _ = two_tastes()
    config = MatrixFactorizationConfig(k=6, loss=loss, regularisation=0.02)  # type: ignore[arg-type]
    model = MatrixFactorization(config=config).fit(train)
    scores = (model.encode_users([UserContext()]) @ model.encode_items().T)[0]
    assert np.corrcoef(scores, np.bincount(train.items, minlength=40))[0, 1] > 0.7


@pytest.mark.parametrize("loss", ["ials", "bpr"])
def test_training_stops_when_validation_falls_and_keeps_the_best(loss: str, tmp_path: Path) -> None:
    train, _ = two_tastes()
    config = MatrixFactorizationConfig(k=4, loss=loss)  # type: ignore[arg-type]
    scores = iter([0.1, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0, 0.0, 0.0])
    kept = []

    def validate(model: MatrixFactorization) -> float:
        kept.append(model.encode_items())
        return next(scores)

    model = MatrixFactorization(config=config).fit(train, validate=validate)
    assert len(model.history) == model.training.patience + 2
    assert model.best_epoch == 1
    assert np.array_equal(model.encode_items(), kept[1])


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="k must be at least 1, got 0"):
        MatrixFactorization(0)
    with pytest.raises(ConfigError, match="regularisation must be above 0, got 0"):
        MatrixFactorizationConfig(regularisation=0)
    with pytest.raises(ConfigError, match="frequency_power"):
        MatrixFactorizationConfig(frequency_power=2)
    with pytest.raises(ConfigError, match="must be a IalsFitConfig, got BprFitConfig"):
        MatrixFactorization(training=BprFitConfig())
    with pytest.raises(ConfigError, match="cg_steps must be at least 1"):
        IalsFitConfig(cg_steps=0)
