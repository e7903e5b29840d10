"""Ranking a catalogue that changes, against a ranker that was loaded with what it became."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ranking_world import CONFIG, HOUR, ITEMS, START, TOWER, Folder, World, write_release
from test_ranking_core import candidates, make_entry, ok, scores_by_item

from corerec.features import ItemFeatures
from corerec.live.content import ContentSide
from corerec.live.numbers import LiveRows
from corerec.ranking.core import ROOM, RankingCore
from corerec.ranking.folded import FoldedRanker
from corerec.ranking.model import RankingModel
from corerec.ranking.prepare import PreparedExamples
from corerec.ranking.transitions import TransitionTable
from corerec.stages import RankEntry, UserContext
from corerec.store.catalogue import Item, ItemChange

NOW = START + 20 * HOUR


def make_item(seed: int) -> Item:
    rng = np.random.default_rng(seed)
    return Item(
        item_id=f"item{seed}",
        title=f"word{seed % 7} word{seed % 5}",
        category="abc?"[seed % 4],
        creator="defgh"[seed % 5],
        born_micros=START - seed * HOUR,
        attributes={"price": str(seed % 5)},
        lists={"tags": tuple("tuvwxyz"[seed % 7 :][:2])},
        vectors={"image": rng.standard_normal(3).astype(np.float32)},
    )


def change(position: int, number: int, item: Item | None = None, gone: bool = False) -> ItemChange:
    own = None if gone else item or make_item(number)
    return ItemChange(position=position, number=number, item_id=f"item{number}", item=own)


@pytest.fixture
def release(world: World, tmp_path: Path) -> Folder:
    return write_release(world, world.model(), tmp_path)


def load(release: Folder) -> RankingCore:
    return RankingCore.load(release, device="cpu")


def bits(core: RankingCore, entry: RankEntry) -> dict[int, bytes]:
    found = ok(core.run([entry])[0]).candidates
    return {int(n): s.tobytes() for n, s in zip(found.numbers, found.scores, strict=True)}


def grown(world: World, root: Path, more: int, items: dict[int, Item]) -> RankingCore:
    """A ranker loaded with N + `more` items, those in `items` as they became.

    Later ones have no id: they read the blank row of the id tables, and nothing follows them.
    """
    count = ITEMS + more
    schema = replace(world.schema, item_count=count)
    kept = {f.name: getattr(world.items, f.name) for f in fields(world.items)}
    blank = {name: np.zeros((more, *array.shape[1:]), array.dtype) for name, array in kept.items()}
    blank["born_micros"][:] = -1
    arrays = {name: np.concatenate([array, blank[name]]) for name, array in kept.items()}
    tower = np.concatenate([world.tower, np.zeros((more, TOWER), np.float32)])
    own = ContentSide.load(write_release(world, world.model(), root)).features(list(items.values()))
    for row, number in enumerate(items):
        tower[number] = 0
        for name, array in arrays.items():
            array[number] = getattr(own, name)[row]
    model, trained = RankingModel(schema, CONFIG, TOWER), world.model()
    state = dict(trained.state_dict())
    for name in ("item.weight", "history.weight"):
        blank_row = state[name][ITEMS:]
        state[name] = torch.cat([state[name][:ITEMS], blank_row.repeat(more + 1, 1)])
    model.load_state_dict(state)
    events = world.events[0], world.events[1], world.events[2]
    early = events[2] < START + 8 * HOUR
    bigger = replace(
        world,
        schema=schema,
        items=ItemFeatures(**arrays),
        tower=tower,
        transitions=TransitionTable.fit(events[0][early], events[1][early], count),
        popularity=_counts(world, count),
    )
    folder = root / "grown"
    folder.mkdir()
    return load(write_release(bigger, model.eval(), folder))


def _counts(world: World, count: int) -> object:
    class Padded:
        def snapshot(self, end: int) -> object:
            own = world.popularity.snapshot(end)
            more = count - len(own.total)
            return replace(
                own, total=np.pad(own.total, (0, more)), recent=np.pad(own.recent, (0, more))
            )

    return Padded()


def entry_of(numbers: list[int], history: list[int], seed: int = 1) -> RankEntry:
    user = replace(
        make_entry(seed).user,
        items=np.array(history, np.int64),
        times=NOW - np.arange(len(history), 0, -1) * HOUR,
    )
    return RankEntry(user=user, candidates=candidates(np.array(numbers)), k=100)


def test_what_was_applied_ranks_as_if_it_had_been_loaded(
    world: World, release: Folder, tmp_path: Path
) -> None:
    items = {n: make_item(n) for n in (3, 17, *range(ITEMS, ITEMS + 6))}
    (tmp_path / "other").mkdir()
    oracle = grown(world, tmp_path / "other", 6, items)
    core = load(release)
    core.apply([change(p, n, item) for p, (n, item) in enumerate(items.items(), 1)])
    assert core.position == len(items)
    for seed, history in enumerate([[], [5, 6, 7], [3, 8, 17]]):
        entry = entry_of(list(range(ITEMS + 6)), history, seed)
        found, told = (scores_by_item(own.run([entry])[0]) for own in (core, oracle))
        assert found == pytest.approx(told, abs=2e-6)


def test_scores_of_untouched_items_keep_every_bit(release: Folder) -> None:
    core = load(release)
    changed = {3, 17}
    entry = entry_of([n for n in range(ITEMS) if n not in changed], [5, 6, 7])
    before = bits(core, entry)
    core.apply([change(p, n) for p, n in enumerate([3, 17, *range(ITEMS, ITEMS + 50)], 1)])
    assert bits(core, entry) == before
    whole = entry_of([*range(ITEMS)], [5, 6, 7])
    assert bits(core, whole)[3] != bits(load(release), whole)[3]


def test_a_later_item_in_the_history_counts_and_an_unknown_one_does_not(release: Folder) -> None:
    core = load(release)
    numbers = list(range(ITEMS))
    without, unknown = (entry_of(numbers, h) for h in ([5, 6], [5, 6, ITEMS + 3]))
    # The times of both histories differ, so the gap is made the same: the last event is kept.
    unknown = replace(
        unknown, user=replace(unknown.user, times=np.append(without.user.times, NOW - HOUR))
    )
    before = scores_by_item(core.run([without])[0])
    assert scores_by_item(core.run([unknown])[0]) == pytest.approx(before, abs=1e-6)
    core.apply([change(1, ITEMS + 3)])
    assert scores_by_item(core.run([without])[0]) == pytest.approx(before, abs=1e-6)
    after = scores_by_item(core.run([unknown])[0])
    assert max(abs(after[n] - before[n]) for n in numbers) > 1e-4


def test_numbers_that_were_not_applied_yet_are_ranked_without_features(release: Folder) -> None:
    core = load(release)
    core.apply([change(1, ITEMS + 2)])
    numbers = [1, ITEMS, ITEMS + 1, ITEMS + 2, 10**9]
    entry = entry_of(numbers, [5, 6])
    even = replace(entry.candidates, scores=np.zeros(5, np.float32))
    even = replace(even, sources=np.ones(5, np.uint8))
    found = scores_by_item(core.run([replace(entry, candidates=even)])[0])
    assert sorted(found) == numbers
    assert found[ITEMS] == found[ITEMS + 1] == found[10**9] != found[ITEMS + 2]


def test_deleted_items_are_ranked_as_before(release: Folder) -> None:
    core = load(release)
    core.apply([change(1, ITEMS)])
    entry = entry_of([1, 2, ITEMS], [5])
    before = bits(core, entry)
    core.apply([change(2, ITEMS, gone=True), change(3, 1, gone=True), change(4, 99, gone=True)])
    assert bits(core, entry) == before
    assert core.position == 4


def test_a_replay_changes_nothing(release: Folder) -> None:
    core = load(release)
    newest = [change(5, ITEMS, make_item(70))]
    core.apply(newest)
    entry = entry_of([1, ITEMS], [5])
    before = bits(core, entry)
    core.apply([change(2, ITEMS, make_item(71))])
    core.apply(newest)
    assert bits(core, entry) == before


def test_an_item_that_the_models_cannot_read_is_left_as_it_was(release: Folder) -> None:
    core = load(release)
    entry = entry_of([1, 2, ITEMS], [5])
    before = scores_by_item(core.run([entry])[0])
    bad = replace(make_item(1), attributes={"price": "dear"})
    core.apply([change(1, 1, bad), change(2, ITEMS)])
    after = scores_by_item(core.run([entry])[0])
    assert (core.position, core._live.refused) == (2, 1)
    assert after[1] == before[1]
    assert after[ITEMS] != before[ITEMS]


def test_tables_grow_beyond_their_room(release: Folder) -> None:
    core, once = load(release), load(release)
    count = ITEMS // 4 + ROOM + 500
    changes = [change(n + 1, ITEMS + n, make_item(n)) for n in range(count)]
    for start in range(0, count, 137):
        core.apply(changes[start : start + 137])
    once.apply(changes)
    numbers = [0, ITEMS, ITEMS + ROOM // 2, ITEMS + ROOM + 11, ITEMS + count - 1]
    entry = entry_of(numbers, [5, ITEMS + count - 2])
    assert scores_by_item(core.run([entry])[0]) == pytest.approx(
        scores_by_item(once.run([entry])[0]), abs=1e-6
    )
    assert len(set(bits(core, entry).values())) == len(numbers)


@pytest.mark.parametrize("table_bytes", [1 << 30, 0])
def test_the_folded_form_reads_changed_rows_anew(world: World, table_bytes: int) -> None:
    model, tables = world.model(), world.tables()
    folded = FoldedRanker(model, tables, table_bytes)
    prepared = PreparedExamples.compute(world.examples, tables, world.users, world.popularity)
    batch, pairs = prepared.batch(np.arange(len(prepared)))
    rows = np.arange(0, ITEMS, 3)
    shuffled = np.random.default_rng(4).permutation(ITEMS)[: len(rows)]
    other = ItemFeatures(
        **{f.name: getattr(world.items, f.name)[shuffled] for f in fields(world.items)}
    )
    with torch.no_grad():
        before = folded(batch, pairs)
        tables.put(rows, other, world.tower[shuffled])
        folded.refresh(torch.from_numpy(rows))
        after = folded(batch, pairs)
        plain = model(tables, batch, pairs)
    torch.testing.assert_close(after, plain, rtol=1e-5, atol=1e-5)
    assert (after - before).abs().max() > 1e-3


def test_rows_of_numbers_leave_the_blank_one_free() -> None:
    rows = LiveRows(10)
    assert rows.candidates(np.array([0, 9, 10, 12])).tolist() == [0, 9, 10, 10]
    assert rows.put(np.array([12, 3])).tolist() == [13, 3]
    assert rows.candidates(np.array([0, 9, 10, 12, 13])).tolist() == [0, 9, 10, 13, 10]
    assert rows.history(np.array([-1, 9, 10, 12, 10**12])).tolist() == [-1, 9, -1, 13, -1]
    assert rows.history(np.empty(0, np.int64)).tolist() == []


def test_a_user_without_anything_gets_later_items_too(release: Folder) -> None:
    core = load(release)
    core.apply([change(1, ITEMS)])
    entry = RankEntry(user=UserContext(), candidates=candidates(np.array([ITEMS])), k=1)
    assert np.isfinite(ok(core.run([entry])[0]).candidates.scores).all()
