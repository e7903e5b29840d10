"""From a data set to a verified release: the steps of `corerec train`, top to bottom."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from corerec.data.dataset import Dataset, load_dataset
from corerec.features import PopularityTimeline
from corerec.pipelines.config import TrainConfig
from corerec.pipelines.labels import task_labels
from corerec.pipelines.measure import measure, thread_count, verify_release
from corerec.pipelines.mining import mine
from corerec.pipelines.parallel import Parallel
from corerec.pipelines.parts import Parts, data_digest, prepare
from corerec.pipelines.progress import Steps
from corerec.pipelines.slices import Slice
from corerec.pipelines.sources import (
    TrainedSource,
    item_space,
    train_sources,
    training_core,
    weigh_sources,
)
from corerec.pipelines.tower import pick_device
from corerec.pipelines.write import Own, Trained, write_release
from corerec.ranking.gate import FILE, PrecisionReport
from corerec.ranking.tables import ItemTables
from corerec.ranking.train import train_ranker
from corerec.ranking.transitions import TransitionTable
from corerec.retrieval.core import RetrievalCore
from corerec.retrieval.options import shares_of

__all__ = [
    "data_digest",
    "finish_release",
    "prepare",
    "read_metrics",
    "read_precision",
    "train_funnel",
    "train_release",
]


def train_release(
    dataset_dir: Path,
    out: Path,
    config: TrainConfig | None = None,
    *,
    steps: Steps | None = None,
    release_id: str | None = None,
    resume: bool = True,
    parallel: Parallel | None = None,
) -> Path:
    """Train on a data set folder, write a release into `out`, verify it, and return its path.

    A run that was killed goes on from its checkpoints in `out/.work-*` when it is started again
    with the same data and config, unless `resume` is False; they are removed when the release
    stands. With `parallel` several processes train, embed and index together.

    Raises:
        DataError, ConfigError: the data set is broken, or too small to measure anything on.
        ReleaseError: what was written does not load back and answer.
    """
    config, steps = config or TrainConfig(), steps or Steps()
    work = out / f".work-{_fingerprint(dataset_dir, config)}"
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    with steps.step("Read data"):
        dataset = load_dataset(dataset_dir, unknown_items=config.unknown_items)
    trained = train_funnel(dataset, config, work=work, steps=steps, parallel=parallel)
    path = finish_release(trained, out, work=work, steps=steps, release_id=release_id)
    shutil.rmtree(work)
    return path


def train_funnel(
    dataset: Dataset,
    config: TrainConfig,
    own: Own | None = None,
    *,
    work: Path,
    steps: Steps,
    parallel: Parallel | None = None,
) -> Trained:
    """Return the trained funnel of a data set; checkpoints go to `work`.

    `parallel` trains on the data set's folder, so it must hold what `dataset` does.

    Raises:
        ConfigError: a quota names a source that is not there.
        DataError: the data set is too small to measure anything on.
    """
    own = own or Own()
    _use_threads(config)
    names = [*config.sources, *(type(retriever).__name__ for retriever in own.retrievers)]
    shares_of(names, config.retrieval.quotas)
    with steps.step("Slice and encode"):
        parts = prepare(dataset, config)
    sources, core = train_retrieval(parts, config, own, work=work, steps=steps, parallel=parallel)
    ranker = None
    if own.ranker is None and not own.unranked:
        arguments = ranker_arguments(parts, sources, core, config, steps)
        with steps.step("Train ranker") as report:
            checkpoint = work / "ranker.safetensors"
            if parallel is not None:
                # What follows finds the whole training in the checkpoint.
                parallel.train_ranker(arguments, checkpoint, report)
            ranker = train_ranker(**arguments, checkpoint=checkpoint, report=report)
    return Trained(parts=parts, sources=sources, ranker=ranker, config=config, own=own)


def finish_release(
    trained: Trained, out: Path, *, work: Path, steps: Steps, release_id: str | None = None
) -> Path:
    """Measure a funnel, write it as a release into `out`, verify it, and return its path."""
    with steps.step("Evaluate the funnel") as report:
        metrics, precision = measure(trained, work, report)
    with steps.step("Write and verify release"):
        metrics["steps"] = [asdict(cost) for cost in steps.costs]
        known = np.ones(len(trained.parts.events.users), np.bool_)
        path = write_release(
            out, trained, known=known, metrics=metrics, precision=precision, release_id=release_id
        )
        verify_release(path, trained.config)
    return path


def _fit_own(parts: Parts, own: Own, steps: Steps) -> None:
    """Let your own models learn from what the library's learn from in the same place."""
    for retriever in own.retrievers:
        with steps.step(f"Fit {type(retriever).__name__}"):
            retriever.fit(parts.dataset_before(Slice.RANKER))
    for other in (own.ranker, own.reranker):
        if other is not None:
            with steps.step(f"Fit {type(other).__name__}"):
                other.fit(parts.dataset_before(Slice.VALIDATION))


def train_retrieval(
    parts: Parts,
    config: TrainConfig,
    own: Own,
    *,
    work: Path,
    steps: Steps,
    parallel: Parallel | None = None,
) -> tuple[list[TrainedSource], RetrievalCore]:
    """Return the trained sources, and retrieval over them as the ranker's slice begins."""
    sources = train_sources(parts, config, work, steps, parallel)
    _fit_own(parts, own, steps)
    core = training_core(parts, sources, own.retrievers, config, thread_count(config))
    if len(sources) > 1:
        with steps.step("Weigh the sources"):
            sources = weigh_sources(parts, sources, core, config)
        core = training_core(parts, sources, own.retrievers, config, thread_count(config))
    return sources, core


def ranker_arguments(
    parts: Parts,
    sources: list[TrainedSource],
    core: RetrievalCore,
    config: TrainConfig,
    steps: Steps,
) -> dict[str, Any]:
    """Return what `train_ranker` is called with, by name: mined cases and tables of features."""
    events = parts.events
    learned = events.before(Slice.RANKER)
    with steps.step("Mine hard negatives") as report:
        limits = {
            Slice.RANKER: config.mining.max_cases,
            Slice.VALIDATION: config.mining.validation_cases,
        }
        mined = {}
        for own, limit in limits.items():
            rng = np.random.default_rng([config.seed, 200 + own])
            cases = events.cases(own).sample(limit, rng)
            note = own.name.lower()
            mined[own] = mine(
                cases,
                core,
                config.mining,
                contexts=parts.contexts,
                item_count=events.item_count,
                history_length=parts.schema.history_length,
                rng=rng,
                labels=task_labels(parts.dataset, events, cases, own, config.ranking.tasks),
                report=lambda done, total, note=note: report(done, total, note),  # type: ignore[misc]
            )
    with steps.step("Make features"):
        # Counted before the ranker's cases begin, or a positive would count itself.
        transitions = TransitionTable.fit(
            events.users[learned], events.items[learned], events.item_count
        )
        tables = ItemTables.build(
            parts.schema,
            parts.features,
            item_space(sources, events.item_count),
            transitions,
            pick_device(config.device),
        )
        before_test = events.before(Slice.TEST) if events.has_times else learned
        popularity = PopularityTimeline(
            events.items[before_test],
            events.times[before_test] if events.has_times else None,
            events.item_count,
        )
    return {
        "examples": mined[Slice.RANKER],
        "validation": mined[Slice.VALIDATION],
        "tables": tables,
        "users": parts.users,
        "popularity": popularity,
        "config": config.ranking,
        "fit": config.ranker_fit,
        "seed": config.seed,
    }


def _use_threads(config: TrainConfig) -> None:
    torch.set_num_threads(thread_count(config))
    omp: Any = faiss
    omp.omp_set_num_threads(thread_count(config))


def _fingerprint(dataset_dir: Path, config: TrainConfig) -> str:
    """Return a digest of the data files and the config: what may share checkpoints."""
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    digest.update(data_digest(dataset_dir).encode())
    return digest.hexdigest()[:12]


def read_precision(path: Path) -> PrecisionReport | None:
    """Return what the precision gate found for the release at `path`, None where it has no ranker
    of the library's."""
    file = path / FILE
    return PrecisionReport.load(file) if file.exists() else None


def read_metrics(path: Path) -> Mapping[str, Any]:
    """Return what `train_release` measured, from the release at `path`."""
    values: Mapping[str, Any] = json.loads((path / "metrics.json").read_text())
    return values
