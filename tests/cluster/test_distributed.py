"""Training, embedding, indexing and tuning over real Ray processes, on one local cluster."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from corerec.data.dataset import load_dataset
from corerec.distributed.embed import embed_items
from corerec.distributed.index import build_sharded_index
from corerec.distributed.parallel import RayParallel
from corerec.distributed.session import ray_session
from corerec.distributed.shards import Shards, ShardsInfo
from corerec.distributed.train import WorkersConfig, fit_tower
from corerec.distributed.tune.keeper import replay
from corerec.distributed.tune.objectives import objective_of
from corerec.distributed.tune.search import SearchConfig, search
from corerec.distributed.tune.space import SearchSpace, read_space
from corerec.distributed.tune.trials import Trial, TrialLog
from corerec.engines.two_tower import TwoTower
from corerec.errors import FailedPrecondition, InvalidArgument
from corerec.features import FeatureSchema
from corerec.pipelines.config import TrainConfig, read_config
from corerec.pipelines.parts import Parts, prepare
from corerec.pipelines.tower import recall, train_tower, validation_cases
from corerec.pipelines.train import read_metrics, train_release
from corerec.release import Release, ReleaseWriter
from corerec.retrieval.build import build_index, read_info
from corerec.retrieval.index import IndexConfig
from corerec.retrieval.source_files import (
    index_files,
    place_parts,
    vectors_file,
    write_index,
    write_vectors,
)
from corerec.retrieval.sources import load_vectors

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    # Ray warns of its own use of what it deprecates.
    pytest.mark.filterwarnings(r"ignore:::ray\..*"),
]
WORKERS = WorkersConfig(workers=2, threads=2)


@pytest.fixture(scope="module", autouse=True)
def ray_cluster() -> Iterator[None]:
    with ray_session(2, uses=("data", "train", "tune")):
        yield


@pytest.fixture(scope="module")
def parts(tiny_data: Path) -> Parts:
    return prepare(load_dataset(tiny_data), TrainConfig.tiny())


@pytest.fixture(scope="module")
def model(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved two-tower."""
    folder = tmp_path_factory.mktemp("model")
    train_tower(parts, TrainConfig.tiny()).save(folder)
    return folder


# Training


def test_two_workers_learn_what_one_does_within_the_spread_of_seeds(
    parts: Parts, tiny_data: Path, tmp_path: Path
) -> None:
    config = TrainConfig.tiny()
    cases, k = validation_cases(parts, config), config.evaluation.tower_recall_at
    checkpoint = tmp_path / "two_tower.safetensors"
    told: list[tuple[int, int, str]] = []
    fit_tower(tiny_data, config, checkpoint, WORKERS, lambda *step: told.append(step))
    assert told[-1][0] == told[-1][1]
    assert [path.name for path in tmp_path.iterdir()] == ["two_tower.safetensors"]
    steps: list[int] = []
    together = train_tower(
        parts, config, checkpoint=checkpoint, report=lambda *step: steps.append(step[0])
    )
    assert steps == []  # the training was found whole, not done again
    alone = [train_tower(parts, replace(config, seed=seed)) for seed in (0, 1, 2)]
    found = recall(cases, parts, together, k)
    spread = [recall(cases, parts, own, k) for own in alone]
    width = max(spread) - min(spread)
    assert min(spread) - width - 0.02 <= found <= max(spread) + width + 0.02


def test_a_killed_worker_goes_on_from_the_last_epoch(tiny_data: Path, tmp_path: Path) -> None:
    config = TrainConfig.tiny()
    fit = replace(config.two_tower_fit, epochs=6, patience=6, batch_windows=8, max_examples=10**9)
    config = replace(config, two_tower_fit=fit)
    checkpoint = tmp_path / "two_tower.safetensors"
    whole = tmp_path / "whole.safetensors"
    killed: list[int] = []

    def kill() -> None:
        notes = checkpoint.with_suffix(".workers")
        while not checkpoint.exists():  # an epoch is kept
            time.sleep(0.02)
        pid = int(json.loads((notes / "worker-1.json").read_text())["pid"])
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    fit_tower(tiny_data, config, checkpoint, WORKERS)
    killer.join()
    assert len(killed) == 1
    fit_tower(tiny_data, config, whole, WORKERS)
    # Killed or not: the same batches, the same chance, so the same weights.
    assert checkpoint_weights(checkpoint) == pytest.approx(checkpoint_weights(whole), abs=1e-5)


def checkpoint_weights(path: Path) -> list[float]:
    from corerec.engines.checkpoint import load_checkpoint

    found = load_checkpoint(path)
    assert found is not None
    tensors, state = found
    assert len(state["epochs"]) == 6
    return [float(t.double().sum()) for name, t in sorted(tensors.items()) if "model" in name]


def test_an_error_of_the_training_itself_is_raised_as_it_is(
    tiny_data: Path, tmp_path: Path
) -> None:
    config = TrainConfig.tiny()
    fit = replace(config.two_tower_fit, learning_rate=1e30)
    with pytest.raises(InvalidArgument, match="finite"):
        fit_tower(
            tiny_data,
            replace(config, two_tower_fit=fit),
            tmp_path / "two_tower.safetensors",
            replace(WORKERS, max_failures=1),
        )


def test_a_release_is_trained_by_two_workers(tiny_data: Path, tmp_path: Path) -> None:
    config = TrainConfig.tiny()
    config = replace(
        config,
        sources=("two_tower", "matrix_factorization"),
        index=IndexConfig(flat_below=10, recall_at=50, shards=4),
    )
    with RayParallel(WORKERS, rows=200) as parallel:
        path = train_release(tiny_data, tmp_path, config, parallel=parallel)
    metrics = read_metrics(path)
    assert metrics["funnel"]["recall@10"] > metrics["popularity"]["recall@10"]
    assert not list(tmp_path.glob(".work-*"))
    release = Release.open(path)
    for kind in config.sources:
        assert vectors_file(kind) not in release.names
        files = [name for part in range(4) for name in index_files(kind, part, 4)]
        assert {vectors_file(kind, part, 4) for part in range(4)} | {*files} <= {*release.names}
    schema = FeatureSchema.load(release.file("schema.json"))
    for kind in config.sources:
        whole = load_vectors(release, kind, schema)
        assert whole.index.count == 500
        for shard in range(4):
            own = load_vectors(release, kind, schema, shard=shard, shards=4)
            assert np.array_equal(own.vectors, whole.vectors[shard::4])
            assert np.array_equal(own.index.numbers(), np.arange(shard, 500, 4))


# Vectors and index


def test_shards_hold_what_one_process_computes_and_are_not_computed_again(
    model: Path, tmp_path: Path
) -> None:
    shards = embed_items(model, "two_tower", tmp_path, workers=2, rows=150)
    expected = TwoTower.load(model).encode_items()
    assert np.allclose(shards.whole(), expected, atol=1e-6)
    assert [shards.stop(s) - s for s in shards.starts()] == [150, 150, 150, 50]
    # As a kill in the middle leaves it: two shards are whole, one is half written, one is missing.
    shards.path(150).unlink()
    shards.path(450).unlink()
    (tmp_path / "vectors-000000000150.npy.77").write_bytes(b"half")
    before = {start: shards.path(start).stat().st_mtime_ns for start in (0, 300)}
    done: list[tuple[int, int, str]] = []
    again = embed_items(
        model, "two_tower", tmp_path, workers=2, rows=150, report=lambda *s: done.append(s)
    )
    assert [(step, of) for step, of, _ in done] == [(1, 2), (2, 2)]
    assert {start: again.path(start).stat().st_mtime_ns for start in (0, 300)} == before
    assert np.allclose(again.whole(), expected, atol=1e-6)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "config",
    [
        IndexConfig(),
        IndexConfig(flat_below=10, recall_at=20, target_recall=0.9),
    ],
    ids=["flat", "lists"],
)
def test_an_index_from_shards_is_the_one_that_one_process_builds(
    config: IndexConfig, count: int, model: Path, tmp_path: Path
) -> None:
    config = replace(config, shards=count)
    shards = embed_items(model, "two_tower", tmp_path / "shards", workers=2, rows=150)
    vectors = shards.whole()
    alone = build_index(vectors, model_id=shards.info.model_id, config=config, queries=vectors[:64])
    told: list[tuple[int, int, str]] = []
    together, folders = build_sharded_index(
        shards,
        tmp_path / "lists",
        config=config,
        queries=vectors[:64],
        workers=2,
        report=lambda *step: told.append(step),
    )
    assert together.info == alone.info  # its kind, probes and measured recall too
    numbers, scores = together.search(vectors[:64], 20)
    expected, expected_scores = alone.search(vectors[:64], 20)
    assert np.array_equal(numbers, expected)
    assert np.array_equal(scores, expected_scores)
    if count == 1:
        assert not folders
        assert not (tmp_path / "lists").exists()
        return
    # What workers wrote and what one process writes are the same files, to the byte.
    assert [step for step, _, _ in told] == [1, 2, 3]
    files = []
    for name in ("workers", "alone"):
        with ReleaseWriter(tmp_path, name) as writer:
            if name == "workers":
                place_parts(writer.path, "two_tower", together, folders)
            else:
                write_vectors(writer.path, "two_tower", vectors, count)
                write_index(writer.path, "two_tower", alone, vectors, count)
            files.append(Release.open(writer.commit({})).manifest.files)
    assert files[0] == files[1]
    assert len(files[0]) >= 3 * count


def test_parts_are_whole_or_absent_and_are_not_written_again(model: Path, tmp_path: Path) -> None:
    shards = embed_items(model, "two_tower", tmp_path / "shards", workers=2, rows=150)
    config = IndexConfig(flat_below=10, recall_at=20, shards=4)
    index, folders = build_sharded_index(shards, tmp_path / "lists", config=config)
    # As a kill in the middle leaves it: two parts are whole, one is half written, one is missing.
    shutil.rmtree(folders[1])
    folders[3].rename(folders[3].with_name(f"{folders[3].name}.77"))
    before = {part: folders[part].stat().st_mtime_ns for part in (0, 2)}
    done: list[tuple[int, int, str]] = []
    again, _ = build_sharded_index(
        shards, tmp_path / "lists", config=config, report=lambda *step: done.append(step)
    )
    assert [(step, of) for step, of, _ in done] == [(1, 2), (2, 2)]
    assert {part: folders[part].stat().st_mtime_ns for part in (0, 2)} == before
    assert again.info == index.info
    queries = shards.whole()[:20]
    assert np.array_equal(again.search(queries, 50)[0], index.search(queries, 50)[0])


def test_a_part_under_way_when_its_worker_is_killed_is_written_by_another(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    info = ShardsInfo(model_id="m1", count=120_000, dim=64, rows=60_000)
    shards = Shards.begin(tmp_path / "shards", info)
    for start in shards.starts():
        shards.write(start, rng.normal(size=(60_000, 64)).astype(np.float32))
    killed: list[int] = []

    def kill() -> None:
        while not killed:
            for path in (tmp_path / "lists").glob("parts-*/part-*.*"):
                pid = int(path.suffix[1:])
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    return
            time.sleep(0.001)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    config = IndexConfig(flat_below=10, recall_at=50, shards=4)
    index, folders = build_sharded_index(shards, tmp_path / "lists", config=config)
    killer.join(10)
    assert len(killed) == 1
    assert index.count == 120_000
    assert [read_info(folder / "index.json").count for folder in folders] == [30_000] * 4


# Tuning


def space_of(folder: Path) -> SearchSpace:
    folder.mkdir(exist_ok=True)
    path = folder / "search.toml"
    path.write_text(
        "[space.two_tower]\ndim = {choice = [8, 16]}\n"
        "[space.two_tower_fit]\nlearning_rate = {log_uniform = [1e-5, 1e-2]}\n"
    )
    objective = objective_of("two_tower")
    return read_space(path, objective.tables, objective.space, TrainConfig.tiny())


def test_a_search_ranks_its_trials_goes_on_and_gives_what_train_takes(
    tiny_data: Path, tmp_path: Path
) -> None:
    space, out = space_of(tmp_path), tmp_path / "search"
    seen: list[tuple[str, ...]] = []
    config = SearchConfig(trials=3, concurrent=2)
    log = search(
        tiny_data,
        out,
        space,
        config=config,
        changed=lambda own: seen.append(tuple(t.state for t in own.trials)),
    )
    assert all(t.is_over and t.scores for t in log.trials)
    assert any("running" in states for states in seen)
    best = log.best()
    assert best.best == max(max(t.scores) for t in log.trials)
    kept = read_config(out / "best.toml")
    assert kept.two_tower == space.config(best.values).two_tower
    assert kept.two_tower_fit == space.config(best.values).two_tower_fit
    first = TrialLog.read(out / "trials.json")
    assert first == log
    assert not (out / ".work").exists()
    # Killed in the third trial: it was running, the others are kept as they are.
    log.trials[2].state, log.trials[2].scores = "running", log.trials[2].scores[:1]
    log.write(out / "trials.json")
    again = search(tiny_data, out, space, config=replace(config, trials=4))
    assert again.trials[:2] == first.trials[:2]
    assert again.trials[2].scores[0] == first.trials[2].scores[0]
    assert len(again.trials) == 4
    assert all(t.is_over for t in again.trials)
    with pytest.raises(FailedPrecondition, match="another search"):
        search(tiny_data, out, space, config=replace(config, seed=1))


def test_a_resumed_search_knows_the_scores_of_earlier_trials() -> None:
    from ray.tune.schedulers import ASHAScheduler, TrialScheduler

    log = TrialLog(model="two_tower", metric="recall", identity="", seed=0)
    log.trials = [Trial(number=n, values={}, scores=[0.5 + n / 10], state="done") for n in range(3)]
    log.trials.append(Trial(number=3, values={}, scores=[0.9]))  # not over: it will tell by itself
    scheduler = ASHAScheduler(time_attr="epoch", max_t=9, grace_period=1, reduction_factor=3)
    scheduler.set_search_properties("score", "max")
    replay(scheduler, log)
    for score, action in ((0.55, TrialScheduler.STOP), (0.75, TrialScheduler.CONTINUE)):
        trial = SimpleNamespace(trial_id=str(score))
        scheduler.on_trial_add(None, trial)
        assert scheduler.on_trial_result(None, trial, {"epoch": 1, "score": score}) == action


def test_a_trial_that_cannot_be_trained_fails_alone(tiny_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "search.toml"
    path.write_text("[space.two_tower_fit]\nlearning_rate = {choice = [1e30]}\n")
    objective = objective_of("two_tower")
    space = read_space(path, objective.tables, objective.space, TrainConfig.tiny())
    log = search(tiny_data, tmp_path / "search", space, config=SearchConfig(trials=2))
    assert [t.state for t in log.trials] in (["done", "failed"], ["stopped", "failed"])
    assert "finite" in log.trials[1].message
    assert log.best().number == 0


def test_shards_of_another_model_are_not_mixed_in(model: Path, tmp_path: Path) -> None:
    shards = embed_items(model, "two_tower", tmp_path, workers=2, rows=250)
    other = replace(shards.info, model_id="another")
    assert len(Shards.begin(tmp_path, other).missing()) == 2
