"""The worlds of `ranking_world.py` as fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ranking_world import World, make_world, write_release

from corerec.ranking.core import RankingCore


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices of a few rows gain nothing from threads and wait for them on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def world() -> World:
    return make_world()


@pytest.fixture(scope="session", params=["with_times", "order_only"])
def either_world(request: pytest.FixtureRequest) -> World:
    return make_world(has_times=request.param == "with_times")


@pytest.fixture
def core(world: World, tmp_path: Path) -> RankingCore:
    return RankingCore.load(write_release(world, world.model(), tmp_path), device="cpu")
