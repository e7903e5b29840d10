"""The generated world is deterministic, keeps its laws and can be learned from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from corerec.data import Dataset, load_dataset
from corerec.data.dataset import load_items
from corerec.data.generate import generate
from corerec.errors import InvalidArgument

USERS, ITEMS, EVENTS = 600, 2_000, 24_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "shop"
    generate(out, users=USERS, items=ITEMS, interactions=EVENTS, seed=7)
    return out


@pytest.fixture(scope="module")
def world(folder: Path) -> Dataset:
    return load_dataset(folder)


def _digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("again", 1), ("b", 2)):
        generate(tmp_path / name, users=20, items=50, interactions=200, seed=seed)
    assert _digests(tmp_path / "a") == _digests(tmp_path / "again")
    different = _digests(tmp_path / "a").items() ^ _digests(tmp_path / "b").items()
    assert {name for name, _ in different} == set(_digests(tmp_path / "a"))


def test_counts_are_exact_and_pairs_distinct(world: Dataset) -> None:
    assert (world.users.height, world.items.height) == (USERS, ITEMS)
    assert world.interactions.height == EVENTS
    assert not world.interactions.select("user_row", "item_number").is_duplicated().any()


def test_nothing_is_taken_before_it_is_born(world: Dataset) -> None:
    born = world.items["born_micros"].to_numpy()[world.interactions["item_number"].to_numpy()]
    assert (world.interactions["time_micros"].to_numpy() >= born).all()


def test_every_item_has_words_and_vectors(world: Dataset) -> None:
    for column in ("title", "category", "creator", "style", "material", "price"):
        assert world.items[column].null_count() == 0
    words = world.items["title"].str.split(" ").list.len()
    assert words.min() >= 4  # type: ignore[operator]
    assert world.items["tags"].list.len().min() == 2
    assert world.vectors["image"].shape == (ITEMS, 32)


def test_popularity_is_skewed_and_days_and_hours_have_habits(world: Dataset) -> None:
    counts = np.sort(np.bincount(world.interactions["item_number"], minlength=ITEMS))[::-1]
    assert counts[: ITEMS // 10].sum() > 0.3 * EVENTS
    seconds = world.interactions["time_micros"].to_numpy() // 1_000_000
    hours = np.bincount(seconds // 3600 % 24, minlength=24)
    assert hours.max() > 1.5 * hours.min()
    categories = world.items["category"].rank("dense").to_numpy().astype(int) - 1
    taken = categories[world.interactions["item_number"].to_numpy()]
    early, late = (np.bincount(taken[p], minlength=40) for p in _halves(seconds // 3600 % 24))
    shares = np.stack([early / early.sum(), late / late.sum()])
    assert np.abs(shares[0] - shares[1]).sum() > 0.15


def _halves(hour: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return hour < 12, hour >= 18


def test_a_simple_guess_from_taste_and_session_beats_popularity_by_far(world: Dataset) -> None:
    shelves = world.items.select("category", "style").to_struct().rank("dense").to_numpy() - 1
    events = world.interactions
    users, items = events["user_row"].to_numpy(), events["item_number"].to_numpy()
    order = np.argsort(users, kind="stable")
    users, items = users[order], items[order]
    popular = np.bincount(items, minlength=ITEMS).astype(float)
    hits = {"popular": 0, "shelf": 0}
    ends = np.flatnonzero(np.diff(users, append=-1))
    for user, end in zip(users[ends], ends, strict=True):
        history, target = items[np.searchsorted(users, user) : end], items[end]
        if len(history) < 3:
            continue
        near = popular + 1e6 * (shelves == shelves[history[-1]])
        for name, score in (("popular", popular.copy()), ("shelf", near)):
            score[target] -= 1  # the target itself is not known
            score[history] = -1
            hits[name] += int((score > score[target]).sum() < 10)
    assert hits["popular"] > 0
    assert hits["shelf"] > 4 * hits["popular"]


def test_vectors_of_a_category_are_alike(world: Dataset) -> None:
    vectors = world.vectors["image"] / np.linalg.norm(world.vectors["image"], axis=1)[:, None]
    category = world.items["category"].to_numpy()
    alike = vectors @ vectors.T
    same = category[:, None] == category[None, :]
    assert alike[same].mean() > alike[~same].mean() + 0.2


def test_without_interactions_only_the_catalogue_is_written_chunk_by_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corerec.data.generate.CHUNK", 1_000)
    generate(tmp_path / "c", items=2_500, interactions=0)
    items, vectors = load_items(tmp_path / "c")
    assert items["item_id"].to_list() == [f"i{number:07d}" for number in range(2_500)]
    assert vectors["image"].shape == (2_500, 32)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [
        "dataset.toml",
        "image.npy",
        "items.parquet",
    ]


def test_a_crowded_world_still_has_exactly_what_was_asked_for(tmp_path: Path) -> None:
    generate(tmp_path / "tiny", users=10, items=20, interactions=100)
    data = load_dataset(tmp_path / "tiny")
    assert data.interactions.height == 100
    assert not data.interactions.select("user_row", "item_number").is_duplicated().any()


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"users": 10, "items": 20, "interactions": 101}, "at most half"),
        ({"users": 100, "items": 20, "interactions": 50}, "at least one for each user"),
        ({"users": 1, "items": 5, "interactions": 1}, "items >= 10"),
    ],
)
def test_counts_out_of_range_are_refused(tmp_path: Path, counts: dict[str, int], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        generate(tmp_path / "x", **counts)
    assert list(tmp_path.iterdir()) == []
