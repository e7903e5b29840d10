"""From a data set to a verified release: the steps of `corerec train`, top to bottom."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from corerec.data.dataset import Dataset, load_dataset
from corerec.errors import DataError
from corerec.features import FeatureSchema, ItemFeatures, PopularityTimeline, UserFeatures
from corerec.pipelines.config import TrainConfig
from corerec.pipelines.measure import measure, thread_count, verify_release
from corerec.pipelines.mining import Retriever, mine
from corerec.pipelines.progress import Report, Steps
from corerec.pipelines.slices import Events, Slice
from corerec.pipelines.tower import Tower, pick_device, train_tower
from corerec.pipelines.write import Trained, write_release
from corerec.ranking.examples import RankingExamples
from corerec.ranking.tables import ItemTables
from corerec.ranking.train import RankerFit, train_ranker
from corerec.ranking.transitions import TransitionTable
from corerec.retrieval.build import build_index
from corerec.retrieval.index import ItemIndex
from corerec.retrieval.popular import PopularList


def train_release(
    dataset_dir: Path,
    out: Path,
    config: TrainConfig | None = None,
    *,
    steps: Steps | None = None,
    release_id: str | None = None,
    resume: bool = True,
) -> Path:
    """Train on a data set folder, write a release into `out`, verify it, and return its path.

    A run that was killed goes on from its checkpoints in `out/.work-*` when it is started again
    with the same data and config, unless `resume` is False; they are removed when the release
    stands.

    Raises:
        DataError, ConfigError: the data set is broken, or too small to measure anything on.
        ReleaseError: what was written does not load back and answer.
    """
    config, steps = config or TrainConfig(), steps or Steps()
    _use_threads(config)
    work = out / f".work-{_fingerprint(dataset_dir, config)}"
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    with steps.step("Read data"):
        dataset = load_dataset(dataset_dir, unknown_items=config.unknown_items)
        parts = prepare(dataset, config)
    with steps.step("Train two-tower") as report:
        tower = train_tower(
            parts.events,
            parts.schema,
            parts.features,
            parts.users,
            config,
            checkpoint=work / "two_tower.safetensors",
            report=report,
        )
    with steps.step("Build index"):
        index = _index(parts, tower, config)
    ranker = _train_ranker(parts, tower, index, config, work, steps)
    trained = Trained(
        dataset=dataset,
        events=parts.events,
        schema=parts.schema,
        features=parts.features,
        tower=tower,
        index=index,
        ranker=ranker,
        config=config,
    )
    with steps.step("Evaluate the funnel") as report:
        metrics = measure(trained, work, report)
    with steps.step("Write and verify release"):
        metrics["steps"] = [asdict(cost) for cost in steps.costs]
        known = np.ones(len(parts.events.users), np.bool_)
        path = write_release(out, trained, known=known, metrics=metrics, release_id=release_id)
        verify_release(path, config)
    shutil.rmtree(work)
    return path


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What every step of a training reads."""

    dataset: Dataset
    events: Events
    schema: FeatureSchema
    features: ItemFeatures
    users: UserFeatures
    """The table of all users; row 0 is the unknown one."""


def prepare(dataset: Dataset, config: TrainConfig) -> Parts:
    """Slice the events and fit the features. Raises DataError when a slice is empty."""
    events = Events.of(dataset, config.slices)
    for own in Slice:
        if not (events.slices == own).any():
            raise DataError(
                f"the {own.name.lower()} slice must have at least one interaction; "
                "the data is too small or all of one moment",
                file=dataset.root,
                value=f"{len(events.users)} interactions",
            )
    schema = FeatureSchema.fit(dataset, history_length=config.ranker_history)
    return Parts(
        dataset=dataset,
        events=events,
        schema=schema,
        features=schema.encode_items(dataset.items, dataset.vectors),
        users=schema.encode_user_table(dataset.users),
    )


def _index(parts: Parts, tower: Tower, config: TrainConfig) -> ItemIndex:
    """Build the index; its recall is measured on queries of the validation slice."""
    cases = parts.events.cases(Slice.VALIDATION)
    cases = cases.sample(512, np.random.default_rng([config.seed, 102]))
    rows = np.arange(len(cases))
    queries = tower.encoder.encode(
        cases.histories(rows), parts.users.take(cases.user_row + 1), cases.now
    )
    return build_index(
        tower.vectors,
        model_id=tower.model_id,
        config=config.index,
        queries=queries,
        seed=config.seed,
    )


def _train_ranker(
    parts: Parts, tower: Tower, index: ItemIndex, config: TrainConfig, work: Path, steps: Steps
) -> RankerFit:
    events = parts.events
    learned = events.before(Slice.RANKER)
    with steps.step("Mine hard negatives") as report:
        limits = {
            Slice.RANKER: config.mining.max_cases,
            Slice.VALIDATION: config.mining.validation_cases,
        }
        mined = {
            own: _mine(parts, tower, index, config, own, limit, report)
            for own, limit in limits.items()
        }
    with steps.step("Train ranker") as report:
        # Counted before the ranker's cases begin, or a positive would count itself.
        transitions = TransitionTable.fit(
            events.users[learned], events.items[learned], events.item_count
        )
        tables = ItemTables.build(
            parts.schema,
            parts.features,
            tower.vectors,
            transitions,
            pick_device(config.device),
        )
        before_test = events.before(Slice.TEST) if events.has_times else learned
        popularity = PopularityTimeline(
            events.items[before_test],
            events.times[before_test] if events.has_times else None,
            events.item_count,
        )
        return train_ranker(
            mined[Slice.RANKER],
            mined[Slice.VALIDATION],
            tables=tables,
            users=parts.users,
            popularity=popularity,
            config=config.ranking,
            fit=config.ranker_fit,
            seed=config.seed,
            checkpoint=work / "ranker.safetensors",
            report=report,
        )


def _mine(
    parts: Parts,
    tower: Tower,
    index: ItemIndex,
    config: TrainConfig,
    own: Slice,
    limit: int,
    report: Report,
) -> RankingExamples:
    rng = np.random.default_rng([config.seed, 200 + own])
    events = parts.events
    cases = events.cases(own).sample(limit, rng)
    known = events.before(Slice.RANKER)
    popular = PopularList.count(
        events.items[known], events.times[known] if events.has_times else None, events.item_count
    )
    retriever = Retriever(
        encoder=tower.encoder,
        index=index,
        vectors=tower.vectors,
        popular=popular.numbers,
        popular_share=config.retrieval.popular_share,
    )
    return mine(
        cases,
        retriever,
        parts.users,
        config.mining,
        history_length=parts.schema.history_length,
        rng=rng,
        report=lambda done, total: report(done, total, own.name.lower()),
    )


def _use_threads(config: TrainConfig) -> None:
    torch.set_num_threads(thread_count(config))
    omp: Any = faiss
    omp.omp_set_num_threads(thread_count(config))


def data_digest(dataset_dir: Path) -> str:
    """Return a digest of the files of a data set folder, 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted(p for p in dataset_dir.glob("*") if p.is_file()):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def _fingerprint(dataset_dir: Path, config: TrainConfig) -> str:
    """Return a digest of the data files and the config: what may share checkpoints."""
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    digest.update(data_digest(dataset_dir).encode())
    return digest.hexdigest()[:12]


def read_metrics(path: Path) -> Mapping[str, Any]:
    """Return what `train_release` measured, from the release at `path`."""
    values: Mapping[str, Any] = json.loads((path / "metrics.json").read_text())
    return values
