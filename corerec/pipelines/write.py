"""Writes everything that was trained into a release; serving reads nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from corerec.config import write_toml
from corerec.engines.protocols import Ranker, Reranker, Retriever
from corerec.features import PopularityTimeline
from corerec.multimodal.kept import ENCODERS, kept_encoders
from corerec.pipelines.config import TrainConfig
from corerec.pipelines.parts import Parts
from corerec.pipelines.sources import TrainedSource, item_space
from corerec.pipelines.tables import write_attributes, write_histories, write_users
from corerec.ranking.files import save_ranker
from corerec.ranking.gate import FILE, PrecisionReport
from corerec.ranking.train import RankerFit
from corerec.ranking.transitions import TransitionTable
from corerec.release import ReleaseWriter, write_catalogue
from corerec.rerank import DEFAULT_RULES, RerankRules, load_rules
from corerec.rerank.rules import check_rules
from corerec.retrieval.options import HEADER, LISTS, RetrievalHeader, RetrievalOptions
from corerec.retrieval.popular import PopularList
from corerec.retrieval.source_files import place_parts, write_index, write_vectors


@dataclass(frozen=True, kw_only=True)
class Own:
    """What takes places of the funnel that a TrainConfig does not name."""

    retrievers: tuple[Retriever, ...] = ()
    """Retrievers of your own, beside the config's sources."""
    ranker: Ranker | None = None
    """A ranker of your own, in the place of the library's."""
    reranker: Reranker | None = None
    """A reranker of your own, in the place of rules."""
    rules: Path | RerankRules = DEFAULT_RULES
    """Rules of the rerank stage: a TOML file or as dataclass."""
    unranked: bool = False
    """Whether there is no ranker: retrieval's order stands."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Everything that a release is made of."""

    parts: Parts
    sources: Sequence[TrainedSource]
    ranker: RankerFit | None
    """None where it is your own, or there is none: what is written cannot be served alone."""
    config: TrainConfig
    own: Own = Own()


def write_release(
    out: Path,
    trained: Trained,
    *,
    known: NDArray[np.bool_],
    metrics: Mapping[str, Any],
    precision: PrecisionReport | None = None,
    release_id: str | None = None,
) -> Path:
    """Write a release and return its directory.

    Weights are what was learned; what is counted (popularity, the popular list, which items follow
    which) is counted over the events `known`, (E,): all of them to serve after the data ends, those
    before the test period to be measured on it.
    """
    with ReleaseWriter(out, release_id) as writer:
        _write_models(writer, trained)
        _write_counts(writer, trained.parts, known)
        _write_tables(writer, trained.parts)
        write_rules(writer.path("rules.toml"), trained.own.rules)
        if precision is not None:
            precision.save(writer.path(FILE))
        writer.path("metrics.json").write_text(json.dumps(dict(metrics), indent=2) + "\n")
        return writer.commit(_info(trained, known))


def write_rules(path: Path, rules: Path | RerankRules) -> None:
    """Write rerank rules as TOML; a file is copied as it is.

    Raises:
        ConfigError: when a rule is out of its range.
    """
    if isinstance(rules, Path):
        load_rules(rules)
        shutil.copyfile(rules, path)
    else:
        check_rules(rules)
        write_toml(path, asdict(rules))


def _write_models(writer: ReleaseWriter, trained: Trained) -> None:
    shards = trained.config.index.shards
    for own in trained.sources:
        source = own.source
        own.save(writer.path(f"{source.kind}.json").parent)
        if own.parts:
            place_parts(writer.path, source.kind, source.index, own.parts)
        else:
            write_vectors(writer.path, source.kind, source.vectors, shards)
            write_index(writer.path, source.kind, source.index, source.vectors, shards)
    RetrievalHeader(
        sources=tuple(own.source.kind for own in trained.sources),
        options=_kept_options(trained),
        score_weights={own.source.kind: own.source.weight for own in trained.sources},
        shards=shards,
    ).save(writer.path(HEADER))
    save_file(
        {"vectors": item_space(trained.sources, trained.parts.events.item_count)},
        writer.path("item_vectors.safetensors"),
    )
    if trained.ranker is not None:
        model = trained.ranker.model
        save_ranker(model, writer.path("ranker.safetensors"), writer.path("ranker.json"))


def _kept_options(trained: Trained) -> RetrievalOptions:
    """Return the options with the quotas of the sources that the release holds."""
    options = trained.config.retrieval
    kinds = {*LISTS, *(own.source.kind for own in trained.sources)}
    kept = {kind: weight for kind, weight in options.quotas.items() if kind in kinds}
    return replace(options, quotas=kept)


def _write_counts(writer: ReleaseWriter, parts: Parts, known: NDArray[np.bool_]) -> None:
    events = parts.events
    users, items, times = events.users[known], events.items[known], events.times[known]
    clock = times if events.has_times else None
    end = int(times.max()) if len(times) else 0
    PopularityTimeline(items, clock, events.item_count).snapshot(end).save(
        writer.path("popularity.safetensors")
    )
    PopularList.count(items, clock, events.item_count).save(writer.path("popular.parquet"))
    TransitionTable.fit(users, items, events.item_count).save(
        writer.path("transitions.safetensors")
    )


def _write_tables(writer: ReleaseWriter, parts: Parts) -> None:
    parts.schema.save(writer.path("schema.json"))
    parts.features.save(writer.path("item_features.safetensors"))
    write_catalogue(writer.path("catalogue.parquet"), parts.dataset.items)
    write_attributes(writer.path("attributes.parquet"), parts.dataset)
    for name, folder in kept_encoders(parts.dataset.root, parts.dataset.vectors).items():
        for file in sorted(folder.iterdir()):
            shutil.copyfile(file, writer.path(f"{ENCODERS}/{name}/{file.name}"))
    write_users(writer.path("users.parquet"), parts.dataset)
    write_histories(writer.path("histories.parquet"), parts.dataset, parts.events)


def _info(trained: Trained, known: NDArray[np.bool_]) -> dict[str, Any]:
    dataset, events = trained.parts.dataset, trained.parts.events
    times = events.times[known]
    return {
        "dataset": dataset.name,
        "data_end_micros": int(times.max()) if len(times) else 0,
        "has_times": events.has_times,
        "seed": trained.config.seed,
        "models": {own.source.kind: own.source.model_id for own in trained.sources},
        "counts": {
            "users": len(dataset.users),
            "items": len(dataset.items),
            "interactions": len(events.users),
            "dropped": dict(dataset.dropped),
        },
        "config": asdict(trained.config),
    }
