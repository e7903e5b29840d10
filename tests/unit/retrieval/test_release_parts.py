"""A release in parts: any number of shards reads what it needs, and finds what the whole finds."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from corerec.cli.train import train
from corerec.errors import ConfigError, InvalidArgument, ReleaseError
from corerec.features import FeatureSchema
from corerec.release import Release, ReleaseWriter
from corerec.retrieval.build import build_index
from corerec.retrieval.choose.release import write_with_indexes
from corerec.retrieval.core import RetrievalCore
from corerec.retrieval.index import IndexConfig, ItemIndex
from corerec.retrieval.merge import merge
from corerec.retrieval.options import HEADER, RetrievalHeader
from corerec.retrieval.shard import ShardCore
from corerec.retrieval.source_files import (
    index_files,
    is_index_file,
    is_vectors_file,
    mean_of,
    parts_for,
    parts_of,
    read_index,
    read_vectors,
    vectors_file,
    write_index,
    write_vectors,
)
from corerec.retrieval.sources import load_vectors
from corerec.retrieval.stores.spec import IndexSpec, Kind
from corerec.stages import RetrieveEntry, SearchEntry, SearchResult, UserContext
from retrieval_svc.config import ShardConfig
from retrieval_svc.shard import shard_process

COUNT, DIM = 3_001, 16
KINDS: tuple[Kind, ...] = (
    "flat",
    "hnsw",
    "ivf-flat",
    "ivf-sq8",
    "ivf-sq8-refine",
    "ivf-int8-refine",
    "ivf-int4-refine",
    "ivf-pq-refine",
    "ivf-rabitq-refine",
)
LIVE = np.array([5, 7, 1000, COUNT, COUNT + 2, COUNT + 9])
GONE = np.array([0, 3, 4, 9, 2000])


def cli() -> typer.Typer:
    app = typer.Typer()
    app.command()(train)
    app.command()(lambda: None)  # with two, the first is asked for by name
    return app


def _units(rows: int, seed: int = 0) -> np.ndarray:
    made = np.random.default_rng(seed).normal(size=(rows, DIM)).astype(np.float32)
    found: np.ndarray = made / np.linalg.norm(made, axis=1, keepdims=True)
    return found


def _written(
    folder: Path, index: ItemIndex, vectors: np.ndarray, parts: int, model_id: str = "m1"
) -> Release:
    with ReleaseWriter(folder) as writer:
        RetrievalHeader(sources=("two_tower",), shards=parts).save(writer.path(HEADER))
        write_vectors(writer.path, "two_tower", vectors, parts)
        write_index(writer.path, "two_tower", index, vectors, parts)
        return Release.open(writer.commit({}))


@pytest.mark.parametrize("parts", range(1, 13))
@pytest.mark.parametrize("shards", range(1, 13))
def test_exactly_the_parts_with_items_of_a_shard_are_read(parts: int, shards: int) -> None:
    for shard in range(shards):
        expected = {n % parts for n in range(shard, 12 * 12 * 12, shards)}
        assert set(parts_for(parts, shard, shards)) == expected


@pytest.mark.parametrize(("parts", "shards"), [(4, 1), (4, 2), (4, 4), (4, 8), (4, 3), (1, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_any_kind_in_parts_is_read_by_any_number_of_shards(
    kind: Kind, parts: int, shards: int, tmp_path: Path
) -> None:
    vectors, fresh, queries = _units(COUNT), _units(len(LIVE), 5), _units(20, 6)
    spec = IndexSpec(kind=kind, refine_factor=4.0)
    config = IndexConfig(recall_at=50, target_recall=0.95)
    whole = build_index(vectors, model_id="m1", config=config, queries=_units(64, 3), spec=spec)
    whole.upsert(LIVE, fresh)  # as a release that was rebuilt has them
    whole.remove(GONE)
    whole.settle()
    release = _written(tmp_path, whole, vectors, parts)
    every = whole.numbers()
    found = []
    for shard in range(shards):
        own, mean = read_vectors(release, "two_tower", COUNT, shard, shards)
        assert np.array_equal(own, vectors[shard::shards])
        assert np.array_equal(mean, mean_of(vectors))
        index = read_index(release, "two_tower", own, shard, shards, model_id="m1")
        assert np.array_equal(index.numbers(), every[every % shards == shard])
        assert index.info == replace(whole.info, count=index.count, identity=False)
        found.append(index.search(queries, 50))
        index.upsert(np.array([shard, shard + shards * COUNT]), _units(2, 9))
        assert index.remove(np.array([shard + shards * COUNT])) == 1
    numbers, scores = whole.search(queries, 50)
    held = dict(enumerate(vectors)) | dict(zip(LIVE.tolist(), fresh, strict=True))
    table = np.array([held[number] for number in every.tolist()])
    hits, of_whole = 0, 0
    for row in range(len(queries)):
        joined = np.concatenate([own[row] for own, _ in found])
        values = np.concatenate([own[row] for _, own in found])
        order = np.lexsort((joined, -values))[:50]
        best = every[np.argsort(-(table @ queries[row]))[:50]]
        hits += len(np.intersect1d(joined[order], best))
        of_whole += len(np.intersect1d(numbers[row], best))
        if kind == "flat" or ("-int" in kind and shards == 1):
            assert np.array_equal(joined[order], numbers[row])
            assert np.array_equal(values[order], scores[row])
    assert of_whole >= (700 if kind == "ivf-rabitq-refine" else 900)
    assert hits >= of_whole - (10 if kind in ("hnsw", "ivf-sq8") else 0)


def test_more_parts_than_items_and_shards_without_any_are_read(tmp_path: Path) -> None:
    vectors = _units(3)
    release = _written(tmp_path, build_index(vectors, model_id="m1"), vectors, 5)
    for shards in (1, 5, 7):
        for shard in range(shards):
            own, _ = read_vectors(release, "two_tower", 3, shard, shards)
            index = read_index(release, "two_tower", own, shard, shards)
            assert index.numbers().tolist() == [n for n in range(3) if n % shards == shard]


def test_parts_of_different_indexes_or_models_are_refused(tmp_path: Path) -> None:
    vectors = _units(COUNT)
    spec = IndexSpec(kind="ivf-int8-refine")
    built = [
        build_index(vectors, model_id=model_id, spec=spec, config=IndexConfig(target_recall=target))
        for model_id, target in (("m1", 0.99), ("m1", 0.5), ("m2", 0.99))
    ]
    releases = [_written(tmp_path / str(i), own, vectors, 2) for i, own in enumerate(built)]
    first = releases[0].path
    for other in releases[1:]:
        for name in index_files("two_tower", 1, 2):
            shutil.copyfile(other.path / name, first / name)
        mixed = Release.open(first, when_used=True)
        mixed._unread.clear()  # the manifest would notice
        with pytest.raises(ReleaseError, match="must be a part of the same index as"):
            read_index(mixed, "two_tower", vectors)


def test_names_say_what_belongs_to_vectors_and_index() -> None:
    for parts in (1, 3):
        for name in index_files("two_tower", parts - 1, parts):
            assert is_index_file(name, ["two_tower"])
            assert not is_vectors_file(name, ["two_tower"])
            assert not is_index_file(name, ["bert4rec"])
        vectors = vectors_file("two_tower", parts - 1, parts)
        assert is_vectors_file(vectors, ["two_tower"])
        assert not is_index_file(vectors, ["two_tower"])
    assert is_index_file("two_tower_parts/1-of-3/index.numbers.npy", ["two_tower"])
    assert not is_index_file("two_tower.safetensors", ["two_tower"])


@pytest.mark.parametrize("shards", [0, -1, 1025])
def test_a_number_of_parts_out_of_range_is_refused(shards: int) -> None:
    with pytest.raises(ConfigError, match=rf"shards must be in \[1, 1024\], got {shards}"):
        IndexConfig(shards=shards)


# A whole release, put into parts


@pytest.fixture(scope="module")
def in_four(tiny_release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("parts")
    return write_with_indexes(Release.open(tiny_release), {}, out, shards=4)


def _searches(release: Release) -> list[SearchEntry]:
    rng = np.random.default_rng(1)
    dim = read_vectors(release, "two_tower", 500)[0].shape[1]
    queries = rng.normal(size=(12, dim)).astype(np.float32)
    return [
        SearchEntry(queries={"two_tower": query}, k=60, excluded=rng.integers(0, 500, 20))
        for query in queries
    ]


def _merged(cores: Sequence[ShardCore], searches: Sequence[SearchEntry]) -> list[SearchResult]:
    found = [core.run(searches) for core in cores]
    return [merge(own, 60)["two_tower"] for own in zip(*found, strict=True)]  # type: ignore[misc]


@pytest.mark.parametrize("shards", [1, 2, 3, 4, 8])
def test_shards_of_a_release_in_parts_give_the_bits_of_the_whole(
    shards: int, tiny_release: Path, in_four: Path
) -> None:
    whole, parts = Release.open(tiny_release), Release.open(in_four)
    assert vectors_file("two_tower") not in parts.names
    searches = _searches(whole)
    expected = _merged([ShardCore.load(whole)], searches)
    for release in (whole, parts):
        cores = [ShardCore.load(release, shard, shards) for shard in range(shards)]
        for mine, other in zip(expected, _merged(cores, searches), strict=True):
            assert np.array_equal(mine.numbers, other.numbers)  # type: ignore[attr-defined]
            assert np.array_equal(mine.scores, other.scores)  # type: ignore[attr-defined]


def test_one_process_answers_from_parts_as_from_the_whole(
    tiny_release: Path, in_four: Path
) -> None:
    times = np.zeros(2, np.int64)
    users = [UserContext(items=np.array([row, row + 7]), times=times) for row in range(9)]
    entries = [RetrieveEntry(user=user, k=100) for user in users]
    answers = [
        RetrievalCore.load(Release.open(path)).run(entries) for path in (tiny_release, in_four)
    ]
    for one, other in zip(*answers, strict=True):
        assert np.array_equal(one.candidates.numbers, other.candidates.numbers)
        assert np.array_equal(one.candidates.scores, other.candidates.scores)


def test_a_replica_reads_its_own_parts_and_needs_no_other(in_four: Path, tmp_path: Path) -> None:
    path = tmp_path / in_four.name
    shutil.copytree(in_four, path)
    searches = _searches(Release.open(path))
    expected = ShardCore.load(Release.open(path), 1, 4).run(searches)
    folders = [path / "two_tower_parts" / f"{part}-of-4" for part in range(4)]
    shutil.rmtree(folders[0])
    (folders[2] / "vectors.safetensors").write_bytes(b"")
    for file in folders[3].iterdir():
        file.write_bytes(bytes(len(file.read_bytes())))
    with pytest.raises(ReleaseError, match="missing, the manifest names it"):
        Release.open(path)
    release = Release.open(path, when_used=True)
    for mine, other in zip(expected, ShardCore.load(release, 1, 4).run(searches), strict=True):
        for one, same in zip(mine.lists, other.lists, strict=True):  # type: ignore[union-attr]
            assert np.array_equal(one.numbers, same.numbers)
            assert np.array_equal(one.scores, same.scores)
    rules = {0: "missing", 2: "size must be", 3: "SHA-256 must be"}
    for shard, rule in rules.items():
        with pytest.raises(ReleaseError, match=rf"{shard}-of-4/vectors\.safetensors: {rule}"):
            ShardCore.load(Release.open(path, when_used=True), shard, 4)
    with pytest.raises(ReleaseError, match="must be"):
        ShardCore.load(Release.open(path, when_used=True), 1, 2)  # needs 1 and 3


async def test_the_process_of_a_shard_starts_without_the_other_parts(
    in_four: Path, tmp_path: Path
) -> None:
    path = tmp_path / in_four.name
    shutil.copytree(in_four, path)
    shutil.rmtree(path / "two_tower_parts" / "3-of-4")
    process = shard_process(ShardConfig(), str(path), 2, 4)
    await process.start()
    await process.drain()


def test_a_release_in_parts_is_put_together_again(
    tiny_release: Path, in_four: Path, tmp_path: Path
) -> None:
    again = Release.open(write_with_indexes(Release.open(in_four), {}, tmp_path, shards=1))
    old = Release.open(tiny_release)
    assert again.manifest.files == old.manifest.files  # every byte
    three = Release.open(write_with_indexes(again, {}, tmp_path, shards=3))
    same = Release.open(write_with_indexes(three, {}, tmp_path))
    assert same.manifest.files == three.manifest.files
    schema = FeatureSchema.load(three.file("schema.json"))
    source = load_vectors(three, "two_tower", schema)
    assert np.array_equal(source.vectors, read_vectors(old, "two_tower", 500)[0])
    with pytest.raises(ConfigError, match="shards must be in"):
        write_with_indexes(three, {}, tmp_path, shards=0)
    with pytest.raises(InvalidArgument, match=r"shard must be in \[0, 3\), got 3"):
        ShardCore.load(three, 3, 3)


def test_a_training_in_parts_writes_the_parts_of_the_whole(
    tiny_data: Path, tiny_release: Path, tmp_path: Path
) -> None:
    result = CliRunner().invoke(
        cli(),
        ["train", str(tiny_data), "--preset", "tiny", "--shards", "3", "--quiet",
         "--out", str(tmp_path / "trained")],
        catch_exceptions=False,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    trained = Release.open(tmp_path / "trained")
    cut = Release.open(write_with_indexes(Release.open(tiny_release), {}, tmp_path, shards=3))
    assert parts_of(trained) == 3
    names = {name for name in cut.names if name.startswith("two_tower_parts/")}
    assert len(names) == 3 * 4  # vectors, index, header and numbers
    assert {name for name in trained.names if "_parts/" in name} == names
    for name in names:  # the same training: the same bytes
        assert trained.manifest.files[name] == cut.manifest.files[name]
    assert (trained.path / HEADER).read_bytes() == (cut.path / HEADER).read_bytes()
