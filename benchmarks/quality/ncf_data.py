"""The NCF paper's split of MovieLens-1M, with its 99 negatives a user."""

from __future__ import annotations

import gzip
from dataclasses import dataclass

import numpy as np
import polars as pl
from ml1m_data import shared_data

from corerec.engines.sequences import Sequences
from corerec.evaluation.ranked import draw_negatives
from corerec.stages import Int64s

USERS, ITEMS = 6040, 3706
PROTOCOL = "leave-one-out of the NCF paper, its 99 negatives a user"
PUBLISHED = {
    "TopPop": {"hr@10": 0.4533, "ndcg@10": 0.2542},
    "MF-BPR": {"hr@10": 0.6305, "ndcg@10": 0.3730},
    "NeuMF": {"hr@10": 0.7093, "ndcg@10": 0.4349},
    "iALS": {"hr@10": 0.7109, "ndcg@10": 0.4382},
    "iALS, 192 factors, tuned": {"hr@10": 0.7310, "ndcg@10": 0.4521},
    "EASE": {"hr@10": 0.7192, "ndcg@10": 0.4494},
}


@dataclass(frozen=True, kw_only=True)
class Split:
    """Training events, and for each user one right item among negatives."""

    train: Sequences
    rows: Int64s
    """(C,) user rows."""
    right: Int64s
    """(C,)"""
    negatives: Int64s
    """(C, 99)"""


def read_ncf() -> Split:
    """Return the test split; 156 users have their right item among their negatives."""
    folder = shared_data() / "ml-1m/ncf"
    train = _columns(folder / "ml-1m.train.notime.rating.gz")
    test = np.loadtxt(folder / "ml-1m.test.rating", dtype=np.int64, usecols=(0, 1))
    with gzip.open(folder / "ml-1m.test.negative.gz", "rt") as file:
        negatives = [line.split("\t")[1:] for line in file]
    return Split(
        train=Sequences.of(train[:, 0], train[:, 1], user_count=USERS, item_count=ITEMS),
        rows=test[:, 0],
        right=test[:, 1],
        negatives=np.array(negatives, dtype=np.int64),
    )


def hold_out(train: Sequences, seed: int, users: int = USERS) -> Split:
    """Return a split of the training part: the newest item of so many random users, 99 negatives.

    The split's files have no times; the full ratings, which keep each user's order, give the
    training events theirs. No test item plays a part. Users keep at least one event.
    """
    rng = np.random.default_rng([seed, 99])
    newest = _newest(train)
    counts = np.diff(train.offsets)
    rows = np.flatnonzero(counts > 1)
    rows = np.sort(rng.choice(rows, min(users, len(rows)), replace=False))
    hidden = np.full(USERS, -1)
    hidden[rows] = newest[rows]
    kept = train.items != np.repeat(hidden, counts)
    return Split(
        train=Sequences.of(
            train.users[kept], train.items[kept], user_count=USERS, item_count=ITEMS
        ),
        rows=rows,
        right=newest[rows],
        negatives=draw_negatives(train, rows, newest[rows], 99, rng),
    )


def _newest(train: Sequences) -> Int64s:
    """Return each user's newest training item, (U,).

    Some ratings have no place in the order: they are no user's newest, if he has others.
    """
    folder = shared_data() / "ml-1m"
    numbers = np.full(4000, -1)
    own, movies = np.loadtxt(folder / "ncf/ncf_item_to_movie_id.txt", dtype=np.int64).T
    numbers[movies] = own
    ratings = pl.read_csv(folder / "ratings_notime.csv.gz").sort("user_id", "seq_pos")  # nulls 1st
    users, items = ratings["user_id"].to_numpy() - 1, numbers[ratings["movie_id"].to_numpy()]
    known = np.isin(users * ITEMS + items, train.users * ITEMS + train.items)
    last = np.flatnonzero(np.diff(users[known], append=-1))
    newest = np.full(USERS, -1)
    newest[users[known][last]] = items[known][last]
    return newest


def _columns(path: object) -> Int64s:
    with gzip.open(str(path)) as file:
        return np.loadtxt(file, dtype=np.int64)
