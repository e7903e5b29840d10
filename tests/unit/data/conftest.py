"""A small data set folder in CSV that tests break on purpose."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

TOML = """format = 1
name = "small"

[interactions]
file = "interactions.csv"
time = "timestamp"

[items]
file = "items.csv"
title = "title"
category = "category"
multi = ["tags"]
numeric = ["price"]

[users]
file = "users.csv"
categorical = ["country"]

[vectors]
image = "image.npy"
"""
INTERACTIONS = """user_id,item_id,timestamp
ann,b,30
bob,a,10
ann,a,20
cid,c,40
"""
ITEMS = """item_id,title,category,tags,price
a,"A ""fine"" lamp",Lamps,red|small,9.5
b,"Two
lines",,,
c,Chair,Chairs,wood,20
"""
USERS = """user_id,country
bob,FR
ann,DE
dan,DE
"""

ML_1M = {
    "ratings.dat": "1::10::5::978300760\n1::20::3::978300761\n2::10::4::978300700\n",
    "movies.dat": (
        "10::Matrix, The (1999)::Action|Sci-Fi\n20::Café Müller (1985)::Drama\n"
        "30::Heat (1995)::Crime\n"
    ),
    "users.dat": "1::F::1::10::48067\n2::M::56::16::70072\n",
}


@pytest.fixture
def ml_1m() -> dict[str, str]:
    """Return the files of a MovieLens 1M of three ratings, to be written in Latin-1."""
    return dict(ML_1M)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return a good data set of 3 items and 4 interactions; bob, ann, dan have attributes."""
    root = tmp_path / "small"
    root.mkdir()
    files = {
        "dataset.toml": TOML,
        "interactions.csv": INTERACTIONS,
        "items.csv": ITEMS,
        "users.csv": USERS,
    }
    for name, text in files.items():
        (root / name).write_text(text)
    np.save(root / "image.npy", np.eye(3, 4, dtype=np.float32))
    return root


@pytest.fixture
def change(small: Path) -> Callable[[str, str, str], None]:
    """Return a function that replaces text in a file of `small`."""

    def apply(name: str, old: str, new: str) -> None:
        text = (small / name).read_text()
        assert old in text
        (small / name).write_text(text.replace(old, new, 1))

    return apply


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data beside the project, or skip."""
    beside = Path(__file__).parents[4] / "shared" / "data"
    folder = Path(os.environ.get("COREREC_SHARED_DATA", beside))
    if not (folder / "ml-1m").is_dir():
        pytest.skip(f"needs the real data sets in {folder} (or COREREC_SHARED_DATA)")
    return folder
