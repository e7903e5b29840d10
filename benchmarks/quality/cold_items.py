"""Measures how well new items are found by what they are about: ml-1m with 10% of the movies new.

Protocol: a tenth of the movies is drawn and taken out of the data before anything is learned, also
before the encoder of the texts. Users' histories are the first 80% of their events, without those
movies; a two-tower is trained on them and written as a release. Then the movies are upserted: a
live item's vector is its content alone. Asked are the users with new movies among the last 20% of
their events; their lists are the 100 best of all 3,416 movies, old and new together, without what
was in their history. Recall is over their new movies.

`random` is the recall of lists drawn at random. `content_nn` ranks by the cosine of a movie's text
vector with the mean of the history's, `content_nn_features` the same with genres, directors, decade
and text side by side. Settings were chosen on another draw of new movies, seed 100.

    python benchmarks/quality/cold_items.py [--seeds 0,1,2] [--out benchmarks/results]
"""

from __future__ import annotations

import gzip
import json
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
from ml1m_data import shared_data, write_ml1m
from report import Benchmark, SeedRun, main

from corerec.data import Dataset, dataset_from_frames
from corerec.engines import TwoTower
from corerec.engines.two_tower_config import TwoTowerConfig, TwoTowerFitConfig
from corerec.live.content import ContentSide
from corerec.live.rows import items_of
from corerec.multimodal import HashedNgramEncoder
from corerec.release import Release, ReleaseWriter
from corerec.stages import Float32s, Int64s, UserContext

NEW, TRAIN, K = 0.1, 0.8, 100
TEXT_DIM = 256
LISTS = ["genres", "directors"]

BENCHMARK = Benchmark(
    name="cold_items",
    data="ml-1m, a tenth of the movies new",
    protocol="the 100 best of all movies, history taken out; recall of each user's new movies",
    published={},
    required={"times_random": 5.0},
)

CONFIG = TwoTowerConfig(
    dim=64,
    history="mean",
    history_length=3000,  # all events of every user
    temperature=0.15,
    bag_dropout=0.5,
    id_dropout=0.5,  # half of what a step sees of an item is its content alone
    content_dropout=0.6,  # without it words and texts are learned by heart, as an id is
    bias=True,
)
FIT = TwoTowerFitConfig(
    epochs=8,
    max_examples=10**9,
    batch_users=256,
    learning_rate=3e-3,
    full_softmax_below=10_000,
)


@dataclass(frozen=True, kw_only=True)
class Movies:
    """All movies and all events; row i is movie i, events are user after user, in order."""

    items: pl.DataFrame
    texts: list[str]
    users: pl.DataFrame
    user_rows: Int64s
    """(E,)"""
    movie_rows: Int64s
    """(E,)"""
    is_train: np.ndarray
    """(E,) whether an event is in the first 80% of its user's."""


def read_movies() -> Movies:
    with tempfile.TemporaryDirectory() as folder:
        write_ml1m(Path(folder))
        items = pl.read_parquet(Path(folder) / "items.parquet")
        users = pl.read_parquet(Path(folder) / "users.parquet")
        events = pl.read_parquet(Path(folder) / "interactions.parquet")
    source = shared_data() / "ml-1m"
    with gzip.open(source / "dbpedia_abstracts.json.gz", "rt", encoding="utf-8") as file:
        abstracts = json.load(file)
    with gzip.open(source / "movies_extrainfos.dat.gz", "rt", encoding="utf-8") as file:
        told = {row[0]: row for line in file if len(row := line.rstrip().split("::")) >= 10}
    ids = items["item_id"].to_list()
    rows = [told.get(movie, [""] * 10) for movie in ids]
    items = items.with_columns(
        pl.col("genres").str.split("|"),
        pl.Series("directors", [_people(row[6]) for row in rows]),
    )
    titles = items["title"].to_list()
    texts = [
        ". ".join((title, row[9], abstracts.get(movie, "")))
        for title, row, movie in zip(titles, rows, ids, strict=True)
    ]
    number = {movie: row for row, movie in enumerate(ids)}
    user_number = {user: row for row, user in enumerate(users["user_id"].to_list())}
    events = events.with_columns(
        pl.col("user_id").replace_strict(user_number, return_dtype=pl.Int64).alias("row")
    ).sort("row", "seq_pos")
    user_rows = events["row"].to_numpy()
    counts = np.bincount(user_rows, minlength=len(users))
    place = events["seq_pos"].to_numpy()
    return Movies(
        items=items,
        texts=texts,
        users=users,
        user_rows=user_rows,
        movie_rows=events["item_id"].replace_strict(number, return_dtype=pl.Int64).to_numpy(),
        is_train=place < np.floor(counts[user_rows] * TRAIN),
    )


def _people(text: str) -> list[str]:
    names = (re.sub(r"\(.*?\)", "", part).strip() for part in text.split(","))
    return list(dict.fromkeys(name for name in names if name and name != "N/A"))


def training_data(movies: Movies, old: Int64s, vectors: Float32s) -> Dataset:
    """Return the data set of the old movies (n,) and the first events of all users."""
    kept = movies.is_train & np.isin(movies.movie_rows, old)
    ids, users = movies.items["item_id"], movies.users["user_id"]
    interactions = pl.DataFrame(
        {
            "user_id": users.gather(movies.user_rows[kept]),
            "item_id": ids.gather(movies.movie_rows[kept]),
        }
    )
    return dataset_from_frames(
        interactions,
        movies.items[old],
        movies.users,
        vectors={"text": vectors[old]},
        title="title",
        category="category",
        item_categorical=["decade"],
        item_multi=LISTS,
        user_categorical=["sex", "age", "occupation"],
    )


def live_vectors(model: TwoTower, movies: Movies, new: Int64s, vectors: Float32s) -> Float32s:
    """Return what the release of a model makes of new items: theirs is content alone."""
    table = movies.items[new].with_columns(
        pl.lit("").alias("creator"), pl.lit(None, pl.Int64).alias("born_micros")
    )
    items = items_of(table, {"text": vectors[new]})
    with tempfile.TemporaryDirectory() as folder, ReleaseWriter(Path(folder)) as writer:
        model.save(writer.path("two_tower.json").parent)
        release = Release.open(writer.commit({"models": {"two_tower": model.model_id}}))
        side = ContentSide.load(release)
        found = side.encode(side.item_count + np.arange(len(new)), items)
    return found.vectors


def histories_of(movies: Movies, old: Int64s) -> list[Int64s]:
    """Return each user's history as movie rows."""
    kept = movies.is_train & np.isin(movies.movie_rows, old)
    starts = np.searchsorted(movies.user_rows[kept], np.arange(len(movies.users) + 1))
    own = movies.movie_rows[kept]
    return [own[starts[u] : starts[u + 1]] for u in range(len(movies.users))]


def recalls(
    queries: Float32s, items: Float32s, histories: list[Int64s], wanted: dict[int, Int64s]
) -> float:
    """Return the mean recall@K of users' wanted movies, the history taken out.

    Shapes: queries (U, D), items (N, D) by movie row.
    """
    found = []
    for user, right in wanted.items():
        scores = items @ queries[user]
        scores[histories[user]] = -np.inf
        best = np.argpartition(-scores, K)[:K]
        found.append(np.isin(right, best).mean())
    return float(np.mean(found))


def content_profiles(vectors: Float32s, histories: list[Int64s]) -> Float32s:
    """Return each user's mean content vector (U, W), zeros without a history."""
    blank = np.zeros(vectors.shape[1], np.float32)
    return np.stack([vectors[own].mean(axis=0) if len(own) else blank for own in histories])


def all_features(movies: Movies, old: Int64s, vectors: Float32s) -> Float32s:
    """Return unit vectors (N, W): decade, genres and people of old movies, and text, each unit."""
    parts = [vectors]
    for name in ("decade", *LISTS):
        column = movies.items[name]
        values = column.to_list()
        lists = [[v] if isinstance(v, str) else v for v in values]
        known = {v for row in old.tolist() for v in lists[row]}
        codes = {value: code for code, value in enumerate(sorted(known))}
        part = np.zeros((len(lists), len(codes)), np.float32)
        for row, own in enumerate(lists):
            part[row, [codes[v] for v in own if v in codes]] = 1
        parts.append(part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1))
    joined = np.concatenate(parts, axis=1)
    return joined / np.maximum(np.linalg.norm(joined, axis=1, keepdims=True), 1e-9)


def run(seed: int) -> SeedRun:
    movies = read_movies()
    count = len(movies.items)
    order = np.random.default_rng([seed, 11]).permutation(count)
    new, old = np.sort(order[: int(count * NEW)]), np.sort(order[int(count * NEW) :])
    encoder = HashedNgramEncoder(TEXT_DIM).fit([movies.texts[row] for row in old.tolist()])
    vectors = encoder.encode(movies.texts)
    data = training_data(movies, old, vectors)
    model = TwoTower(config=CONFIG, training=FIT, seed=seed, device="cpu").fit(data)
    assert model.history is not None
    place = np.full(count, -1)
    place[old] = np.arange(len(old))
    items = np.empty((count, CONFIG.dim), np.float32)
    items[old], items[new] = model.encode_items(), live_vectors(model, movies, new, vectors)
    histories = histories_of(movies, old)
    ids = movies.users["user_id"].to_list()
    contexts = [UserContext(user_id=i, items=place[h]) for i, h in zip(ids, histories, strict=True)]
    queries = model.encode_users(contexts)
    is_new = np.isin(movies.movie_rows, new)
    cold, warm = (_wanted(movies, ~movies.is_train & kind) for kind in (is_new, ~is_new))
    random = float(np.mean([K / (count - len(histories[user])) for user in cold]))
    joined = all_features(movies, old, vectors)
    found = {
        "new_recall@100": recalls(queries, items, histories, cold),
        "old_recall@100": recalls(queries, items, histories, warm),
        "content_nn": recalls(content_profiles(vectors, histories), vectors, histories, cold),
        "content_nn_features": recalls(
            content_profiles(joined, histories), joined, histories, cold
        ),
        "random": random,
    }
    return SeedRun(
        seed=seed,
        metrics={"times_random": found["new_recall@100"] / random, **found},
        epochs=len(model.history.epochs),
        best_epoch=len(model.history.epochs),
        seconds=model.history.seconds,
        samples_per_second=model.history.examples / model.history.seconds,
        more={
            "new_movies": len(new),
            "users_asked": len(cold),
            "new_movies_wanted": int(sum(len(own) for own in cold.values())),
            "share_of_lists_that_is_new": _share_new(queries, items, histories, new, cold),
        },
    )


def _wanted(movies: Movies, kept: np.ndarray) -> dict[int, Int64s]:
    """Return the movies of some events by user, for users who have any."""
    users, rows = movies.user_rows[kept], movies.movie_rows[kept]
    starts = np.searchsorted(users, np.arange(len(movies.users) + 1))
    return {
        u: rows[starts[u] : starts[u + 1]]
        for u in range(len(movies.users))
        if starts[u] < starts[u + 1]
    }


def _share_new(
    queries: Float32s,
    items: Float32s,
    histories: list[Int64s],
    new: Int64s,
    users: dict[int, Int64s],
) -> float:
    """Return the share of new movies in the lists of the users asked; a tenth is fair."""
    shares = []
    for user in list(users)[:1000]:
        scores = items @ queries[user]
        scores[histories[user]] = -np.inf
        shares.append(np.isin(np.argpartition(-scores, K)[:K], new).mean())
    return float(np.mean(shares))


def name_baselines(path: Path) -> None:
    """Put the baselines of a report, measured in the same runs, where its table shows them."""
    report = json.loads(path.read_text())
    mean = report["mean"]
    rows = {
        "lists drawn at random": "random",
        "content neighbours, text": "content_nn",
        "content neighbours, all features": "content_nn_features",
    }
    report["published"] = {
        title: {"times_random": mean[name] / mean["random"], "new_recall@100": mean[name]}
        for title, name in rows.items()
    }
    path.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    settings = {"model": asdict(CONFIG), "training": asdict(FIT), "text": TEXT_DIM}
    name_baselines(main(BENCHMARK, run, settings))
