"""What tests of several rooms share: a tiny world and a release trained on it, made once."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CLIENT = Path(__file__).resolve().parents[1] / "examples" / "go-client"


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


@pytest.fixture(scope="session")
def go_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built Go client. Skips without Go, except in CI."""
    if shutil.which("go") is None:
        assert os.environ.get("CI") != "true", "CI must build the Go client: install Go"
        pytest.skip("no Go toolchain here")
    binary = tmp_path_factory.mktemp("go") / "go-client"
    subprocess.run([CLIENT / "generate"], check=True, stdin=subprocess.DEVNULL)
    subprocess.run(["go", "build", "-o", binary, "."], cwd=CLIENT, check=True)
    return binary
