"""Makes a data set folder of MovieLens-1M in the order of the SASRec and BERT4Rec papers."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import polars as pl

ITEMS = 3416
USERS = 6040


def shared_data() -> Path:
    """Return the folder of real data: COREREC_SHARED_DATA's, else the one beside the project."""
    return Path(os.environ.get("COREREC_SHARED_DATA") or Path(__file__).parents[3] / "shared/data")


def write_ml1m(folder: Path) -> None:
    """Write dataset.toml, interactions, items and users; ids are the original MovieLens ones."""
    source = shared_data() / "ml-1m"
    with gzip.open(source / "sasrec/ml-1m.txt.gz") as file:
        events = np.loadtxt(file, dtype=np.int64)
    item_ids = _mapping(source / "sasrec/sas_to_original_items.txt")
    user_ids = _mapping(source / "sasrec/sas_to_original_users.txt")
    folder.mkdir(parents=True, exist_ok=True)
    users, items = events[:, 0], events[:, 1]
    order = np.argsort(users, kind="stable")
    users, items = users[order], items[order]
    starts = np.flatnonzero(np.diff(users, prepend=-1))
    place = np.arange(len(users)) - np.repeat(starts, np.diff(np.append(starts, len(users))))
    pl.DataFrame(
        {
            "user_id": [str(user_ids[u]) for u in users.tolist()],
            "item_id": [str(item_ids[i]) for i in items.tolist()],
            "seq_pos": place,
        }
    ).write_parquet(folder / "interactions.parquet")
    _movies(source / "movies.dat", set(item_ids.values())).write_parquet(folder / "items.parquet")
    _people(source / "users.dat").write_parquet(folder / "users.parquet")
    (folder / "dataset.toml").write_text(_SPEC)


_SPEC = """\
format = 1
name = "ml-1m (SASRec order)"

[interactions]
file = "interactions.parquet"
user = "user_id"
item = "item_id"
order = "seq_pos"

[items]
file = "items.parquet"
id = "item_id"
title = "title"
category = "category"
categorical = ["decade"]
multi = ["genres"]
multi_separator = "|"

[users]
file = "users.parquet"
id = "user_id"
categorical = ["sex", "age", "occupation"]
"""


def _mapping(path: Path) -> dict[int, int]:
    rows = np.loadtxt(path, dtype=np.int64)
    return dict(zip(rows[:, 0].tolist(), rows[:, 1].tolist(), strict=True))


def _movies(path: Path, known: set[int]) -> pl.DataFrame:
    rows = []
    for line in path.read_text(encoding="latin-1").splitlines():
        number, title, genres = line.split("::")
        if int(number) in known:
            year = title[-5:-1]
            decade = f"{year[:3]}0s" if year.isdigit() else ""
            rows.append((number, title, genres.split("|")[0], decade, genres))
    columns = ["item_id", "title", "category", "decade", "genres"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def _people(path: Path) -> pl.DataFrame:
    rows = [line.split("::")[:4] for line in path.read_text(encoding="latin-1").splitlines()]
    return pl.DataFrame(rows, schema=["user_id", "sex", "age", "occupation"], orient="row")
