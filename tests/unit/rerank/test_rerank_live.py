"""Reranking a catalogue that changes, against a core that was made with what it became."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from corerec.release import Catalogue, Release
from corerec.rerank import (
    Block,
    Boosts,
    Caps,
    Diversity,
    Freshness,
    RerankCore,
    RerankRules,
    load_rules,
)
from corerec.stages import Candidates, RerankEntry, RerankResult, Source
from corerec.store.catalogue import Item, ItemChange

DAY = 86_400_000_000
NOW = 20_000 * DAY
N, LATER = 60, 20

RULES = RerankRules(
    block=Block(items=("i3", "i63"), categories=("c9",), creators=("r40",)),
    pins={"i5": 2, "i65": 1, "i67": 3},
    freshness=Freshness(weight=0.5),
    boosts=Boosts(categories={"c8": 3.0, "c1": 2.0}, creators={"r41": 0.25}),
    caps=Caps(per_category=3, per_creator=2),
)


def entry(numbers: list[int], k: int = 30, *, explain: bool = True) -> RerankEntry:
    n = len(numbers)
    return RerankEntry(
        candidates=Candidates(
            numbers=np.array(numbers, np.int64),
            scores=np.linspace(0.9, 0.1, n, dtype=np.float32),
            sources=np.full(n, Source.TWO_TOWER, np.uint8),
        ),
        k=k,
        explain=explain,
    )


def rerank(core: RerankCore, one: RerankEntry) -> RerankResult:
    (result,) = core.run([one])
    assert isinstance(result, RerankResult), result
    return result


def make_item(number: int, seed: int) -> Item:
    return Item(
        item_id=f"i{number}",
        title=f"Later {number} {seed}",
        category=["c1", "c7", "c8", "c9", ""][(number + seed) % 5],
        creator=["r1", "r40", "r41", "r42", ""][(number + 2 * seed) % 5],
        born_micros=NOW - (number % 30) * DAY,
    )


def put(position: int, number: int, seed: int = 0) -> ItemChange:
    own = make_item(number, seed)
    return ItemChange(position=position, number=number, item_id=own.item_id, item=own)


def delete(position: int, number: int) -> ItemChange:
    return ItemChange(position=position, number=number, item_id=f"i{number}", item=None)


def vector_of(number: int, item: Item) -> np.ndarray:
    raw = np.random.default_rng(len(item.title) * 1000 + number).normal(size=8)
    return (raw / np.linalg.norm(raw)).astype(np.float32)


def encode(items: dict[int, Item]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(list(items)), np.stack([vector_of(n, item) for n, item in items.items()])


def make(catalogue: Catalogue, vectors: np.ndarray, rules: RerankRules) -> RerankCore:
    return RerankCore(
        release="r1",
        catalogue=catalogue,
        vectors=vectors,
        rules=rules,
        data_end_micros=NOW,
        encode=encode,
    )


def rebuilt(
    base: Catalogue, vectors: np.ndarray, items: dict[int, Item], rules: RerankRules
) -> RerankCore:
    """A core over a catalogue that was written with these items in place."""
    rows = [
        items.get(n)
        or Item(
            item_id=base.ids[n],
            title=base.titles[n],
            category=base.categories[n],
            creator=base.creators[n],
            born_micros=int(base.born_micros[n]),
        )
        for n in range(N + LATER)
        if n < N or n in items
    ]
    assert [row.item_id for row in rows] == [f"i{n}" for n in range(N + LATER)]
    names = ("item_id", "title", "category", "creator", "born_micros")
    frame = pl.DataFrame({name: [getattr(row, name) for row in rows] for name in names})
    whole = np.concatenate([vectors, np.zeros((LATER, 8), np.float32)])
    for number, item in items.items():
        whole[number] = vector_of(number, item)
    return make(Catalogue(frame), whole, rules)


@pytest.mark.parametrize("mmr_lambda", [1.0, 0.6])
def test_a_changed_catalogue_reranks_as_one_that_was_written_so(
    catalogue: Catalogue, vectors: np.ndarray, mmr_lambda: float
) -> None:
    rules = RerankRules(**{**vars(RULES), "diversity": Diversity(mmr_lambda=mmr_lambda)})
    core, items = make(catalogue, vectors, rules), {}
    changes = [put(p, n) for p, n in enumerate([*range(N + LATER - 1, N - 1, -1), 0, 5, 7], 1)]
    changes += [put(len(changes) + 1, 7, seed=3), put(len(changes) + 2, N, seed=1)]
    for start in range(0, len(changes), 3):
        core.apply(changes[start : start + 3])
    for change in changes:
        assert change.item is not None
        items[change.number] = change.item
    assert core.position == len(changes)
    oracle, rng = rebuilt(catalogue, vectors, items, rules), np.random.default_rng(6)
    for _ in range(40):
        numbers = rng.permutation(N + LATER)[: rng.integers(0, 60)].tolist()
        one = entry(numbers, k=int(rng.integers(1, 40)))
        found, told = rerank(core, one), rerank(oracle, one)
        assert list(found.items) == list(told.items)
        assert list(found.removed) == list(told.removed)


def test_names_of_rules_hold_when_they_come_alive(
    catalogue: Catalogue, vectors: np.ndarray
) -> None:
    core = make(catalogue, vectors, RULES)
    assert [item.number for item in rerank(core, entry([1, 2])).items] == [1, 5, 2]
    core.apply([put(1, 65), put(2, 63)])
    found = rerank(core, entry([1, 2, 63]))
    assert [item.number for item in found.items][:2] == [65, 5]
    assert [(r.number, r.rule) for r in found.removed] == [(63, "block")]


def test_deleted_items_are_dropped_and_the_reason_is_given(
    catalogue: Catalogue, vectors: np.ndarray
) -> None:
    core = make(catalogue, vectors, RULES)
    core.apply([delete(1, 2), delete(2, 5), put(3, 61), delete(4, 61)])
    found = rerank(core, entry([1, 2, 61, 4]))
    assert [item.number for item in found.items] == [1, 4]
    gone = {r.number: (r.rule, r.note) for r in found.removed}
    assert gone == dict.fromkeys([2, 5, 61], ("deleted", "the item was deleted"))
    assert not rerank(core, entry([1, 2], explain=False)).removed
    core.apply([put(5, 2)])
    assert 2 in [item.number for item in rerank(core, entry([1, 2])).items]


def test_a_replay_changes_nothing(catalogue: Catalogue, vectors: np.ndarray) -> None:
    core = make(catalogue, vectors, RULES)
    core.apply([put(1, 60), put(2, 61), delete(3, 61)])
    before = rerank(core, entry([1, 60, 61])).items
    core.apply([put(1, 60, seed=1), put(2, 61)])
    assert rerank(core, entry([1, 60, 61])).items == before


@pytest.mark.parametrize("mmr_lambda", [1.0, 0.6])
def test_numbers_that_were_not_applied_yet_keep_their_place_without_a_name(
    catalogue: Catalogue, vectors: np.ndarray, mmr_lambda: float
) -> None:
    rules = RerankRules(
        diversity=Diversity(mmr_lambda=mmr_lambda), boosts=Boosts(categories={"c1": 2.0})
    )
    core = make(catalogue, vectors, rules)
    found = rerank(core, entry([1, 500, 2]))
    assert sorted(item.number for item in found.items) == [1, 2, 500]
    stranger = next(item for item in found.items if item.number == 500)
    assert (stranger.item_id, stranger.title, stranger.category) == ("", "", "")
    core.apply([put(1, 500)])
    known = next(i for i in rerank(core, entry([1, 500, 2])).items if i.number == 500)
    assert known.item_id == "i500"


def test_a_real_release_follows_its_catalogue(tiny_release: Path) -> None:
    release = Release.open(tiny_release)
    rules = load_rules(release.rules_path)
    assert rules.diversity.mmr_lambda < 1
    core, count = RerankCore.load(release), len(release.catalogue)
    twin = Item(item_id="twin", title="twin", category=release.catalogue.categories[0])
    core.apply([ItemChange(position=1, number=count, item_id="twin", item=twin)])
    found = rerank(core, entry([0, count, 1]))
    assert {item.item_id for item in found.items} >= {"twin"}
    assert core._vectors is not None
    np.testing.assert_allclose(np.linalg.norm(core._vectors.values[count]), 1, atol=1e-5)
