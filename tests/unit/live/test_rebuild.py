"""A rebuild while items come and go: the new release and the store after it lose nothing."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from corerec.cli import _add_commands, app
from corerec.errors import FailedPrecondition, ReleaseError
from corerec.live.catalogue import LiveCatalogue
from corerec.live.rebuild import read_changes, rebuild
from corerec.live.rows import items_of
from corerec.live.snapshot import FILE, POSITION, read_position, read_snapshot, write_snapshot
from corerec.ranking.core import RankingCore
from corerec.release import Release, ReleaseWriter
from corerec.rerank import RerankCore
from corerec.retrieval import RetrievalCore
from corerec.retrieval.choose.release import write_with_indexes
from corerec.retrieval.shard import ShardCore
from corerec.retrieval.source_files import parts_of, vectors_file
from corerec.stages import (
    Candidates,
    RankEntry,
    RankResult,
    RerankEntry,
    RetrieveEntry,
    UserContext,
)
from corerec.store import SqliteStore
from corerec.store.catalogue import Item, ItemChange


@pytest.fixture
def release(tiny_release: Path) -> Release:
    return Release.open(tiny_release)


@pytest.fixture
def store(release: Release, tmp_path: Path) -> SqliteStore:
    opened = SqliteStore(tmp_path / "store.db")
    opened.seed(release)
    return opened


@pytest.fixture
def items(release: Release) -> list[Item]:
    return items_of(pl.read_parquet(release.file("attributes.parquet")))


class Writer(threading.Thread):
    """Upserts and deletes at random until it is told to stop, and keeps what was acknowledged."""

    def __init__(self, store: SqliteStore, items: list[Item]) -> None:
        super().__init__()
        self.store, self.items, self.stop = store, items, threading.Event()
        self.acked: dict[str, Item | None] = {}
        self.failed: BaseException | None = None
        self.rounds = 0

    def run(self) -> None:
        rng = np.random.default_rng(8)
        try:
            while not self.stop.is_set():
                self.once(rng)
                self.rounds += 1
        except BaseException as error:
            self.failed = error

    def once(self, rng: np.random.Generator) -> None:
        rows = rng.permutation(len(self.items))[:20]
        fresh = []
        for row in rows.tolist():
            own = self.items[row]
            name = own.item_id if rng.random() < 0.3 else f"new{rng.integers(0, 3000)}"
            fresh.append(replace(own, item_id=name, title=f"round {self.rounds}"))
        fresh = list({item.item_id: item for item in fresh}.values())
        self.store.upsert_items(fresh)
        self.acked.update({item.item_id: item for item in fresh})
        gone = [fresh[0].item_id, fresh[-1].item_id]
        self.store.delete_items(gone)
        self.acked.update(dict.fromkeys(gone))


def _user(row: int, count: int) -> UserContext:
    """A user who has two items of the training and a later one."""
    return UserContext(
        user_id=f"u{row}", items=np.array([row, row + 1, count + row]), times=np.array([1, 2, 3])
    )


def _tail(store: SqliteStore, after: int) -> list[ItemChange]:
    found = []
    while page := store.changes(after, 100):
        found += page
        after = page[-1].position
    return found


def test_nothing_is_lost_when_items_change_during_a_rebuild(
    release: Release, store: SqliteStore, items: list[Item], tmp_path: Path
) -> None:
    writer = Writer(store, items)
    writer.start()
    while writer.rounds < 30:
        pass
    path = release.path
    for generation in range(3):  # a rebuilt release is rebuilt again
        before = writer.rounds
        done = rebuild(Release.open(path), store, tmp_path / "out")
        path = done.path
        assert writer.rounds > before, f"nothing changed during rebuild {generation}"
    writer.stop.set()
    writer.join()
    assert writer.failed is None
    made = Release.open(path)
    position = read_position(made)
    assert 0 < position < store.position()
    live = LiveCatalogue(made.catalogue)
    for changes in read_snapshot(made):
        live.apply(changes)
    assert live.position == position
    live.apply(_tail(store, position))
    assert live.position == store.position()
    for item_id, item in writer.acked.items():
        number = live.number_of(item_id)
        assert number is not None
        assert live.is_alive(number) == (item is not None)
        if item is not None:
            assert live.titles[number] == item.title
    for number, item_id in enumerate(release.catalogue.ids):
        assert live.number_of(item_id) == number
        if item_id not in writer.acked:
            assert live.titles[number] == release.catalogue.titles[number]


def test_cores_of_a_rebuilt_release_answer_as_those_that_followed_the_store(
    release: Release, store: SqliteStore, items: list[Item], tmp_path: Path
) -> None:
    new = [replace(items[n], item_id=f"new{n}", creator="") for n in range(50)]
    store.upsert_items([*new, replace(items[7], category=items[3].category)])
    store.delete_items([items[9].item_id, "new3"])
    done = rebuild(release, store, tmp_path / "out")
    assert (done.added, done.changed, done.deleted) == (49, 1, 2)
    late = [replace(items[60], item_id="late"), replace(new[4], title="changed again")]
    store.upsert_items(late)
    made = Release.open(done.path)
    everything, rest = _tail(store, 0), _tail(store, done.position)
    assert {change.item_id for change in rest} == {"late", "new4"}
    count = len(release.catalogue)
    numbers = np.array([1, 7, 9, *range(count, count + 51)])
    candidates = Candidates(
        numbers=numbers,
        scores=np.linspace(1, 0, len(numbers), dtype=np.float32),
        sources=np.ones(len(numbers), np.uint8),
    )
    user = UserContext(items=np.array([1, count + 2]), times=np.array([5, 6]))
    rank = RankEntry(user=user, candidates=candidates, k=100)
    rerank = RerankEntry(candidates=candidates, k=100, explain=True)
    answers = []
    for own, changes in ((release, everything), (made, rest)):
        ranking, reranking = RankingCore.load(own, device="cpu"), RerankCore.load(own)
        for core in (ranking, reranking):
            assert core.position == read_position(own)
            core.apply(changes)
            assert core.position == store.position()
        ranked = ranking.run([rank])[0]
        assert isinstance(ranked, RankResult)
        scores = dict(zip(ranked.candidates.numbers, ranked.candidates.scores, strict=True))
        result = reranking.run([rerank])[0]
        answers.append((scores, [i.number for i in result.items], result.removed))
    followed, loaded = answers
    assert followed[1:] == loaded[1:]
    assert {9, count + 3} == {r.number for r in loaded[2] if r.rule == "deleted"}
    assert followed[0] == pytest.approx(loaded[0], abs=1e-6)


def test_retrieval_of_a_rebuilt_release_finds_what_one_that_followed_the_store_finds(
    release: Release, store: SqliteStore, items: list[Item], tmp_path: Path
) -> None:
    new = [replace(items[n], item_id=f"new{n}") for n in range(60)]
    store.upsert_items([*new, replace(items[7], category=items[3].category, title="other")])
    store.delete_items([items[9].item_id, items[11].item_id, "new3"])
    first = rebuild(release, store, tmp_path / "out")
    store.upsert_items([items[11], replace(items[60], item_id="late")])  # one came back
    store.delete_items(["new5"])
    second = rebuild(Release.open(first.path), store, tmp_path / "out")
    store.upsert_items([replace(items[61], item_id="later")])
    count = len(release.catalogue)
    # Not user 5: an item that was deleted counts in a history only where it had been seen alive.
    users = [_user(u, count) for u in range(12) if u != 5]
    entries = [RetrieveEntry(user=user, k=700) for user in users]
    entries += [RetrieveEntry(user=user, k=20) for user in users]
    answers = []
    for path in (release.path, first.path, second.path):
        core = RetrievalCore.load(Release.open(path))
        assert core.shard.counts["delta_items"] == 0  # its index was built with the snapshot
        core.apply(_tail(store, core.position))
        assert core.position == store.position()
        answers.append([result.candidates for result in core.run(entries)])
    expected = {*range(count), *range(count, count + 62)} - {9, count + 3, count + 5}
    for followed, *loaded in zip(*answers, strict=True):
        for other in loaded:
            assert set(followed.numbers) == set(other.numbers)
            scores = dict(zip(other.numbers.tolist(), other.scores.tolist(), strict=True))
            told = dict(zip(followed.numbers.tolist(), followed.scores.tolist(), strict=True))
            assert scores == pytest.approx(told, abs=1e-5)
    for user, found in zip(users, answers[0][: len(users)], strict=True):
        assert set(found.numbers.tolist()) == expected - set(user.items.tolist())


def test_a_release_in_parts_is_rebuilt_in_parts(
    release: Release, store: SqliteStore, items: list[Item], tmp_path: Path
) -> None:
    cut = Release.open(write_with_indexes(release, {}, tmp_path / "cut", shards=3))
    new = [replace(items[n], item_id=f"new{n}") for n in range(40)]
    store.upsert_items([*new, replace(items[7], category=items[3].category)])
    store.delete_items([items[9].item_id, "new3"])
    whole, parts = (
        Release.open(rebuild(own, store, tmp_path / "out", release_id=name).path)
        for own, name in ((release, "whole"), (cut, "parts"))
    )
    assert parts_of(parts) == 3
    for part in range(3):  # what was trained is copied
        name = vectors_file("two_tower", part, 3)
        assert parts.manifest.files[name] == cut.manifest.files[name]
    count = len(release.catalogue)
    alive = np.setdiff1d(np.arange(count + 40), [9, count + 3])
    for shard in range(3):
        own = ShardCore.load(parts, shard, 3)
        assert own.counts["delta_items"] == 0
        assert np.array_equal(own._search.vectors[0]._index.numbers(), alive[alive % 3 == shard])
    entries = [RetrieveEntry(user=_user(u, count), k=700) for u in range(8) if u != 5]
    answers = [RetrievalCore.load(own).run(entries) for own in (whole, parts)]
    for one, other in zip(*answers, strict=True):
        told = dict(zip(one.candidates.numbers, one.candidates.scores, strict=True))
        scores = dict(zip(other.candidates.numbers, other.candidates.scores, strict=True))
        assert scores == pytest.approx(told, abs=1e-5)


def test_deleted_items_leave_the_popular_list(
    release: Release, store: SqliteStore, tmp_path: Path
) -> None:
    popular = pl.read_parquet(release.file("popular.parquet"))
    first = int(popular["item_number"][0])
    store.delete_items([release.catalogue.ids[first]])
    made = Release.open(rebuild(release, store, tmp_path / "out").path)
    left = pl.read_parquet(made.file("popular.parquet"))
    assert left.equals(popular.filter(pl.col("item_number") != first))
    indexes = {name for name in made.names if "_index" in name}
    others = set(made.names) - {FILE, "popular.parquet"} - indexes
    assert others == {n for n in release.names if "_index" not in n} - {"popular.parquet"}
    for name in others:
        assert made.file(name).read_bytes() == release.file(name).read_bytes()


def test_without_changes_a_release_is_rebuilt_at_position_nought(
    release: Release, store: SqliteStore, tmp_path: Path
) -> None:
    done = rebuild(release, store, tmp_path / "out")
    assert (done.position, done.added, done.changed, done.deleted) == (0, 0, 0, 0)
    assert list(read_snapshot(Release.open(done.path))) == []


def test_the_store_of_another_release_is_refused(
    release: Release, store: SqliteStore, items: list[Item], tmp_path: Path
) -> None:
    other = SqliteStore(tmp_path / "other.db")
    other.upsert_items([replace(items[3], item_id="first of all")])
    with pytest.raises(FailedPrecondition, match="has number 0 in the store and none in release"):
        rebuild(release, other, tmp_path / "out")
    store.upsert_items([replace(items[0], item_id="later")])
    made = Release.open(rebuild(release, store, tmp_path / "out").path)
    with pytest.raises(FailedPrecondition, match="the store is at position 0 and release"):
        rebuild(made, SqliteStore(tmp_path / "empty.db"), tmp_path / "out")


def test_a_snapshot_that_is_not_whole_is_refused(release: Release, tmp_path: Path) -> None:
    def made(position: int, changes: list[ItemChange] | None) -> Release:
        with ReleaseWriter(tmp_path / "out") as writer:
            shutil.copyfile(release.file("catalogue.parquet"), writer.path("catalogue.parquet"))
            if changes is not None:
                write_snapshot(writer.path(FILE), changes)
            return Release.open(writer.commit({POSITION: position}))

    def gone(position: int, number: int) -> ItemChange:
        return ItemChange(position=position, number=number, item_id=f"x{number}", item=None)

    assert [len(p) for p in read_snapshot(made(9, [gone(n + 1, n) for n in range(9)]), 4)] == [
        4, 4, 1,
    ]  # fmt: skip
    for position, changes, rule in (
        (3, None, f"position 3 but has no {FILE}"),
        (3, [gone(1, 0), gone(2, 1)], "must end at position 3, got 2"),
        (1, [gone(2, 0), gone(1, 1)], "must be above 0 and ascend"),
        (2, [gone(1, 0), gone(2, 0)], "number must be there once each"),
    ):
        with pytest.raises(ReleaseError, match=rule):
            list(read_snapshot(made(position, changes)))


def test_changes_are_read_while_they_move_to_the_end(store: SqliteStore, items: list[Item]) -> None:
    store.upsert_items([replace(item, item_id=f"n{n}") for n, item in enumerate(items[:40])])
    found = read_changes(store)
    assert [change.position for change in found] == sorted({c.position for c in found})
    assert found == _tail(store, 0)
    store.upsert_items([replace(items[50], item_id="n3")])
    again = read_changes(store)
    assert again[-1].item_id == "n3"
    assert len(again) == 40


def test_the_command_writes_a_release_and_says_what_is_in_it(
    release: Release, store: SqliteStore, items: list[Item], tmp_path: Path
) -> None:
    store.upsert_items([replace(items[0], item_id="later")])
    if not app.registered_commands:
        _add_commands()
    arguments = ["rebuild", str(release.path), "--store", str(tmp_path / "store.db")]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out"), "--id", "two"])
    assert done.exit_code == 0, done.output
    assert "1 items added, 0 changed, 0 deleted" in done.output
    assert read_position(Release.open(tmp_path / "out" / "two")) == 1
    missing = CliRunner().invoke(app, [*arguments[:-1], str(tmp_path / "none.db")])
    assert "must be a SQLite file that exists" in str(missing.exception)
