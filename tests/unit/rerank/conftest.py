"""A small world of items, and one way to make entries and cores of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from corerec.release import Catalogue, read_catalogue, write_catalogue

DAY = 86_400_000_000
NOW = 20_000 * DAY
N = 60


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """Return 60 items: 5 categories, 12 creators, ages of 0 to 54 days; every 10th has nothing."""
    path: Path = tmp_path_factory.mktemp("rerank") / "catalogue.parquet"
    bare = [i % 10 == 9 for i in range(N)]
    frame = pl.DataFrame(
        {
            "item_id": [f"i{i}" for i in range(N)],
            "title": [f"Title {i}" for i in range(N)],
            "category": [None if b else f"c{i % 5}" for i, b in enumerate(bare)],
            "creator": [None if b else f"r{i % 12}" for i, b in enumerate(bare)],
            "born_micros": [None if b else NOW - (i % 55) * DAY for i, b in enumerate(bare)],
        }
    )
    write_catalogue(path, frame)
    return read_catalogue(path)


@pytest.fixture(scope="session")
def vectors() -> np.ndarray:
    """Return (60, 8) L2-normalised vectors."""
    raw = np.random.default_rng(5).normal(size=(N, 8)).astype(np.float32)
    return raw / np.linalg.norm(raw, axis=1, keepdims=True)
