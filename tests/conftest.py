"""What tests of several rooms share: a tiny world and a release trained on it, made once."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated data set of 300 users and 500 items."""
    from corerec.data.generate import generate

    folder = tmp_path_factory.mktemp("tiny") / "data"
    generate(folder, users=300, items=500, interactions=8_000, seed=1)
    return folder


@pytest.fixture(scope="session")
def tiny_release(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release trained for seconds; every part of it is real."""
    from corerec.pipelines.config import TrainConfig
    from corerec.pipelines.train import train_release

    return train_release(tiny_data, tmp_path_factory.mktemp("releases"), TrainConfig.tiny())
