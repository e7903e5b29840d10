"""The retrieval step: trains each source on the first slice and builds the index over it."""

# B users, N items, D width

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from corerec.engines.protocols import Retriever
from corerec.pipelines.config import TrainConfig
from corerec.pipelines.list_tables import TrainingTables
from corerec.pipelines.parallel import Parallel
from corerec.pipelines.parts import Parts
from corerec.pipelines.progress import Report, Steps
from corerec.pipelines.slices import Slice
from corerec.pipelines.tower import recall, train_tower, validation_cases
from corerec.pipelines.weigh import weigh
from corerec.retrieval.build import build_index
from corerec.retrieval.core import RetrievalCore
from corerec.retrieval.options import KINDS
from corerec.retrieval.release_lists import make_lists
from corerec.retrieval.sources import (
    Encode,
    ListSource,
    RetrievalSource,
    VectorSource,
    model_class,
    read_model_id,
)
from corerec.stages import Float32s

TITLES = {
    "two_tower": "Train two-tower",
    "bert4rec": "Train BERT4Rec",
    "matrix_factorization": "Train matrix factorization",
}
_INDEX_QUERIES = 512


@dataclass(frozen=True, kw_only=True)
class TrainedSource:
    """A source of the funnel and how to keep it."""

    source: VectorSource
    save: Callable[[Path], object]
    """Writes `<kind>.safetensors` and `<kind>.json` into a folder."""
    epochs: Sequence[object]
    """What its training said of each epoch."""
    best_epoch: int
    seconds: float
    """Of its training, also before it was resumed."""
    parts: Sequence[Path] = ()
    """Folders of the parts of its vectors and index, where workers wrote them."""


def train_sources(
    parts: Parts,
    config: TrainConfig,
    work: Path,
    steps: Steps,
    parallel: Parallel | None = None,
) -> list[TrainedSource]:
    """Return the sources that the config names, trained, in the order of their turns.

    Each learns from the TOWER slice and leaves checkpoints in `work`.
    """
    found = []
    for kind in KINDS:
        if kind not in config.sources:
            continue
        with steps.step(TITLES[kind]) as report:
            model = _vector_model(kind, parts, config, work, report, parallel)
        name = f"Build index of {kind}" if len(config.sources) > 1 else "Build index"
        with steps.step(name) as report:
            found.append(_with_index(model, parts, config, work, report, parallel))
    return found


def training_core(
    parts: Parts,
    sources: Sequence[TrainedSource],
    own: Sequence[Retriever],
    config: TrainConfig,
    threads: int,
) -> RetrievalCore:
    """Return retrieval as it would have served when the ranker's slice began."""
    lists: list[RetrievalSource] = [ListSource(o, parts.events.item_count) for o in own]
    return RetrievalCore(
        release="training",
        sources=[*(trained.source for trained in sources), *lists],
        popular=parts.popular(Slice.RANKER),
        schema=parts.schema,
        users=parts.index,
        options=config.retrieval,
        lists=make_lists(TrainingTables(parts, Slice.RANKER), config.retrieval),
        threads=threads,
    )


def weigh_sources(
    parts: Parts, sources: list[TrainedSource], core: RetrievalCore, config: TrainConfig
) -> list[TrainedSource]:
    """Return the sources with the weights that their dot products have in candidates' scores."""
    cases, depth = validation_cases(parts, config), config.mining.depth
    found = weigh([own.source for own in sources], core, cases, parts, depth)
    return [replace(own, source=source) for own, source in zip(sources, found, strict=True)]


def item_space(sources: Sequence[TrainedSource], item_count: int) -> Float32s:
    """Return unit vectors (N, D) by which ranking and rerank compare items: the first source's.

    Without a vector source they are zeros: nothing is like anything.
    """
    if not sources:
        return np.zeros((item_count, 1), np.float32)
    vectors = sources[0].source.vectors
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    if (np.abs(length - 1) < 1e-3).all():
        return vectors
    found: Float32s = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
    return found


@dataclass(frozen=True, kw_only=True)
class _Model:
    kind: str
    encode: Encode
    vectors: Float32s
    model_id: str
    save: Callable[[Path], object]
    epochs: Sequence[object]
    best_epoch: int
    seconds: float


def _vector_model(
    kind: str,
    parts: Parts,
    config: TrainConfig,
    work: Path,
    report: Report,
    parallel: Parallel | None,
) -> _Model:
    checkpoint, start = work / f"{kind}.safetensors", time.perf_counter()
    if parallel is not None and kind == "two_tower":
        # What follows finds the whole training in the checkpoint.
        parallel.train_tower(parts.dataset.root, config, checkpoint, report)
    if kind == "two_tower":
        model: Any = train_tower(parts, config, checkpoint=checkpoint, report=report)
    else:
        cases, k = validation_cases(parts, config), config.evaluation.tower_recall_at
        model = new_model(kind, config)
        model.fit(
            parts.events.sequences(),
            validate=(lambda own: recall(cases, parts, own, k)) if len(cases) else None,
            checkpoint=checkpoint,
            report=report,
        )
    spent = time.perf_counter() - start
    # Saved and loaded back at once: what is measured is what will be served.
    folder = work / f"{kind}.model"
    model.save(folder)
    served = model_class(kind).load(folder)
    if parallel is not None:
        vectors = parallel.embed_items(folder, kind, work / f"{kind}.shards", report)
    else:
        vectors = served.encode_items()
    epochs, best_epoch, known = _training(model)
    return _Model(
        kind=kind,
        encode=served.encode_users,
        vectors=np.ascontiguousarray(vectors, np.float32),
        model_id=read_model_id(folder / f"{kind}.json"),
        save=served.save,
        epochs=epochs,
        best_epoch=best_epoch,
        seconds=max(known, spent),
    )


def new_model(kind: str, config: TrainConfig) -> Any:
    """Return a BERT4Rec or a MatrixFactorization of a config, not fitted."""
    if kind == "bert4rec":
        return model_class(kind)(
            config=config.bert4rec,
            training=config.bert4rec_fit,
            seed=config.seed,
            device=config.device,
        )
    own = config.matrix_factorization
    training = config.matrix_factorization_fit
    return model_class(kind)(
        config=own,
        training=training if own.loss == "ials" else config.matrix_factorization_bpr,
        seed=config.seed,
    )


def _training(model: Any) -> tuple[Sequence[object], int, float]:
    """Return what a model says of each epoch of its training, the best of them, and the seconds."""
    if model.kind == "matrix_factorization":
        return [{"validation": score} for score in model.history], model.best_epoch, 0.0
    history = model.history
    if model.kind == "two_tower":
        return history.epochs, history.best_epoch, history.seconds
    return history.epochs, history.best_epoch, sum(e["seconds"] for e in history.epochs)


def _with_index(
    model: _Model,
    parts: Parts,
    config: TrainConfig,
    work: Path,
    report: Report,
    parallel: Parallel | None,
) -> TrainedSource:
    """Build the index; its recall is measured on queries of the validation slice."""
    cases = parts.events.cases(Slice.VALIDATION)
    cases = cases.sample(_INDEX_QUERIES, np.random.default_rng([config.seed, 102]))
    queries = model.encode(parts.contexts(cases, np.arange(len(cases))))
    folders: Sequence[Path] = ()
    if parallel is not None:
        shards = work / f"{model.kind}.shards"
        index, folders = parallel.build_index(shards, config, queries, report)
    else:
        index = build_index(
            model.vectors,
            model_id=model.model_id,
            config=config.index,
            queries=queries,
            seed=config.seed,
        )
    source = VectorSource(
        kind=model.kind,
        source=KINDS[model.kind],
        encode=model.encode,
        vectors=model.vectors,
        index=index,
        model_id=model.model_id,
    )
    return TrainedSource(
        source=source,
        save=model.save,
        epochs=model.epochs,
        best_epoch=model.best_epoch,
        seconds=model.seconds,
        parts=folders,
    )
