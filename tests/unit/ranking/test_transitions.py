from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from corerec.errors import InvalidArgument
from corerec.ranking.transitions import DECAY, PRIOR, WINDOW, TransitionTable


def brute_force(users: np.ndarray, items: np.ndarray, count: int) -> np.ndarray:
    pairs = np.zeros((count, count))
    for user in np.unique(users):
        own = items[users == user]
        for i, j in enumerate(own):
            for lag in range(1, WINDOW + 1):
                if i + lag < len(own) and own[i + lag] != j:
                    pairs[j, own[i + lag]] += DECAY ** (lag - 1)
    return pairs / (np.bincount(items, minlength=count)[:, None] + PRIOR)


def dense(table: TransitionTable) -> np.ndarray:
    out = np.zeros((len(table), len(table)))
    for item in range(len(table)):
        own = slice(table.starts[item], table.starts[item + 1])
        out[item, table.followers[own]] = table.weights[own]
    return out


def test_followers_equal_brute_force_also_when_users_are_mixed() -> None:
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 5, 200), rng.integers(0, 12, 200)
    table = TransitionTable.fit(users, items, 12)
    np.testing.assert_allclose(dense(table), brute_force(users, items, 12), rtol=1e-5)


def test_only_the_best_neighbours_are_kept_best_first() -> None:
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 5, 400), rng.integers(0, 12, 400)
    whole = brute_force(users, items, 12)
    table = TransitionTable.fit(users, items, 12, neighbours=3)
    assert np.diff(table.starts).max() == 3
    for item in range(12):
        own = table.weights[table.starts[item] : table.starts[item + 1]]
        np.testing.assert_allclose(own, np.sort(whole[item])[::-1][:3], rtol=1e-5)


@pytest.mark.parametrize("events", [0, 1])
def test_no_pairs_give_an_empty_table(events: int, tmp_path: Path) -> None:
    table = TransitionTable.fit(np.zeros(events, int), np.zeros(events, int), 4)
    assert len(table) == 4
    assert len(table.followers) == 0
    table.save(tmp_path / "t.safetensors")
    assert len(TransitionTable.load(tmp_path / "t.safetensors")) == 4


def test_items_out_of_range_are_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"\[0, 4\)"):
        TransitionTable.fit(np.zeros(1, int), np.array([4]), 4)
