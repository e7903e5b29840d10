"""The baselines against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from corerec.engines.sequences import Sequences
from corerec.errors import ConfigError, InvalidArgument
from corerec.evaluation.baselines import EASE, TopPop
from corerec.evaluation.ranked import scorer


def events() -> tuple[Sequences, np.ndarray]:
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 40, 300), rng.integers(0, 12, 300)
    dense = np.zeros((40, 12))
    dense[users, items] = 1
    return Sequences.of(users, items, user_count=40, item_count=12), dense


def test_toppop_scores_by_the_users_of_an_item() -> None:
    data, dense = events()
    scores = scorer(TopPop().fit(data), data)(np.arange(3))
    assert np.allclose(scores, np.tile(dense.sum(0), (3, 1)))


def test_ease_is_the_closed_form_of_the_paper() -> None:
    data, dense = events()
    inverse = np.linalg.inv(dense.T @ dense + 3.0 * np.eye(12))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    scores = scorer(EASE(3.0).fit(data), data)(np.arange(40))
    assert np.allclose(scores, dense @ weights, atol=1e-5)


def test_each_column_of_ease_is_a_ridge_regression_without_its_own_item() -> None:
    data, dense = events()
    found = EASE(3.0).fit(data).encode_items()
    others = np.delete(dense, 4, axis=1)
    expected = np.linalg.solve(others.T @ others + 3.0 * np.eye(11), others.T @ dense[:, 4])
    assert found[4, 4] == 0
    assert np.allclose(np.delete(found[4], 4), expected, atol=1e-5)


def test_baselines_refuse_what_they_cannot_learn_from() -> None:
    empty = np.empty(0, np.int64)
    none = Sequences.of(empty, empty, user_count=1, item_count=2)
    for model in (TopPop(), EASE()):
        with pytest.raises(InvalidArgument, match="must be fitted"):
            model.encode_items()
        with pytest.raises(InvalidArgument, match="at least one event"):
            model.fit(none)
    with pytest.raises(ConfigError, match="above 0"):
        EASE(0)
