"""One Ray cluster for the tests of this folder: two replicas a stage, and two shards of two.

It goes down with the folder: at rest it takes a fifth of a core from every test after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.running import served

CONFIG = """
[gateway]
clock = "data"
default_deadline_ms = 2000
[retrieval]
replicas = 2
shards = 2
[shard]
replicas = 2
[ranking]
replicas = 2
[rerank]
replicas = 2
"""


@pytest.fixture(scope="package")
def cluster(tiny_release: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state folder of a running cluster."""
    folder = tmp_path_factory.mktemp("cluster")
    config = folder / "serve.toml"
    config.write_text(CONFIG)
    with served(tiny_release, folder / "state", "--config", config) as state:
        yield state
