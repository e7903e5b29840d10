"""The compiled query encoder against its definition in torch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corerec.engines.two_tower_config import TwoTowerConfig
from corerec.engines.two_tower_net import TwoTowerNet
from corerec.engines.two_tower_query import QueryEncoder
from corerec.engines.two_tower_shape import TwoTowerShape
from corerec.features import UserFeatures, VectorSet

ITEMS, USERS, LATER = 40, 12, 7
SHAPE = TwoTowerShape(
    items=ITEMS,
    users=USERS,
    item_categorical=(4, 3),
    item_multi=(),
    title_buckets=50,
    item_numeric=0,
    item_vectors=(VectorSet(name="text", width=2),),
    user_categorical=(3, 5),
    user_dense=2,
    has_times=True,
)
BARE = replace(SHAPE, user_categorical=(), user_dense=0, has_times=False)
CONFIG = TwoTowerConfig(dim=16, heads=2, history_length=6, hidden=24)
CASES = {
    "as the default": (CONFIG, SHAPE),
    "a bias": (replace(CONFIG, dim=17, heads=1, bias=True), SHAPE),
    "one event, four heads": (replace(CONFIG, heads=4, history_length=1), SHAPE),
    "nothing but a history": (CONFIG, BARE),
}


def encoder(name: str) -> QueryEncoder:
    """An encoder with random weights everywhere, which knows some later items too."""
    config, shape = CASES[name]
    generator = torch.Generator().manual_seed(3)
    model = TwoTowerNet(config, shape, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    made = QueryEncoder(model, torch.randn(ITEMS + 1, config.dim, generator=generator))
    rng = np.random.default_rng(1)
    later = rng.normal(size=(LATER, config.dim)).astype(np.float32)
    made.extend(np.arange(ITEMS, ITEMS + LATER), later)
    return made


ENCODERS = {name: encoder(name) for name in CASES}


def users(rows: list[int], shape: TwoTowerShape) -> UserFeatures:
    rng = np.random.default_rng(rows)
    sizes = np.array(shape.user_categorical, np.int64)
    return UserFeatures(
        row=np.array(rows, np.int64),
        categorical=rng.integers(0, 3, (len(rows), len(sizes))).astype(np.int32),
        numeric=rng.normal(size=(len(rows), shape.user_dense)).astype(np.float32),
    )


HISTORIES = st.lists(st.lists(st.integers(-3, ITEMS + LATER + 3), max_size=15), max_size=6)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=40, deadline=None)
@given(told=HISTORIES, now=st.integers(0, 2 * 10**15))
def test_it_encodes_as_its_definition_does(name: str, told: list[list[int]], now: int) -> None:
    own, shape = ENCODERS[name], CASES[name][1]
    histories = [np.array(one, np.int64) for one in told]
    who = users([row % (USERS + 1) for row in range(len(told))], shape)
    moments = now + np.arange(len(told), dtype=np.int64) * 3_600_000_000
    fast = own.encode(histories, who, moments)
    assert fast.shape == (len(told), own.model.config.dim)
    assert fast.dtype == np.float32
    if len(told):
        assert np.abs(fast - own.plain(histories, who, moments)).max() < 2e-6


def test_a_user_has_the_same_bits_in_every_batch() -> None:
    own = ENCODERS["as the default"]
    rng = np.random.default_rng(2)
    histories = [rng.integers(-2, ITEMS + LATER, size) for size in range(20)]
    who, moments = users([row % USERS for row in range(20)], SHAPE), np.arange(20) * 10**12
    together = own.encode(histories, who, moments)
    for row, history in enumerate(histories):
        one = np.array([row])
        alone = own.encode([history], who.take(one), moments[one])
        assert np.array_equal(alone[0], together[row])


def test_without_moments_the_moment_does_not_count() -> None:
    own = ENCODERS["as the default"]
    histories, who = [np.array([1, 2, 3])], users([4], SHAPE)
    silent = own.encode(histories, who, None)
    assert np.abs(silent - own.plain(histories, who, None)).max() < 2e-6
    assert np.abs(silent - own.encode(histories, who, np.array([10**15]))).max() > 1e-3


def test_weights_that_are_not_numbers_give_a_query_that_is_none() -> None:
    own = encoder("as the default")
    with torch.no_grad():
        own.model.user.context.bias[0] = float("nan")
    found = own.encode([np.array([1, 2])], users([1], SHAPE), np.array([10**15]))
    assert not np.isfinite(found).all()
