"""Writes everything that was trained into a release; serving reads nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from corerec.data.dataset import Dataset
from corerec.engines.two_tower_io import save_two_tower
from corerec.features import FeatureSchema, ItemFeatures, PopularityTimeline
from corerec.pipelines.config import TrainConfig
from corerec.pipelines.slices import Events
from corerec.pipelines.tables import write_histories, write_users
from corerec.pipelines.tower import Tower
from corerec.ranking.files import save_ranker
from corerec.ranking.train import RankerFit
from corerec.ranking.transitions import TransitionTable
from corerec.release import ReleaseWriter, write_catalogue
from corerec.rerank import DEFAULT_RULES
from corerec.retrieval.build import save_index
from corerec.retrieval.index import ItemIndex
from corerec.retrieval.popular import PopularList


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Everything that a release is made of."""

    dataset: Dataset
    events: Events
    schema: FeatureSchema
    features: ItemFeatures
    tower: Tower
    index: ItemIndex
    ranker: RankerFit
    config: TrainConfig
    rules: Path = DEFAULT_RULES


def write_release(
    out: Path,
    trained: Trained,
    *,
    known: NDArray[np.bool_],
    metrics: Mapping[str, Any],
    release_id: str | None = None,
) -> Path:
    """Write a release and return its directory.

    Weights are what was learned; what is counted (popularity, the popular list, which items follow
    which) is counted over the events `known`, (E,): all of them to serve after the data ends, those
    before the test period to be measured on it.
    """
    with ReleaseWriter(out, release_id) as writer:
        _write_models(writer, trained)
        _write_counts(writer, trained, known)
        _write_tables(writer, trained)
        shutil.copyfile(trained.rules, writer.path("rules.toml"))
        writer.path("metrics.json").write_text(json.dumps(dict(metrics), indent=2) + "\n")
        return writer.commit(_info(trained, known))


def _write_models(writer: ReleaseWriter, trained: Trained) -> None:
    save_two_tower(
        trained.tower.fit.model,
        writer.path("two_tower.safetensors"),
        writer.path("two_tower.json"),
    )
    save_file(
        {"vectors": np.ascontiguousarray(trained.tower.vectors)},
        writer.path("item_vectors.safetensors"),
    )
    save_index(trained.index, writer.path("index.faiss"), writer.path("index.json"))
    save_ranker(trained.ranker.model, writer.path("ranker.safetensors"), writer.path("ranker.json"))


def _write_counts(writer: ReleaseWriter, trained: Trained, known: NDArray[np.bool_]) -> None:
    events = trained.events
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


def _write_tables(writer: ReleaseWriter, trained: Trained) -> None:
    trained.schema.save(writer.path("schema.json"))
    trained.features.save(writer.path("item_features.safetensors"))
    write_catalogue(writer.path("catalogue.parquet"), trained.dataset.items)
    write_users(writer.path("users.parquet"), trained.dataset)
    write_histories(writer.path("histories.parquet"), trained.dataset, trained.events)


def _info(trained: Trained, known: NDArray[np.bool_]) -> dict[str, Any]:
    times = trained.events.times[known]
    return {
        "dataset": trained.dataset.name,
        "data_end_micros": int(times.max()) if len(times) else 0,
        "has_times": trained.events.has_times,
        "seed": trained.config.seed,
        "model_id": trained.tower.model_id,
        "counts": {
            "users": len(trained.dataset.users),
            "items": len(trained.dataset.items),
            "interactions": len(trained.events.users),
            "dropped": dict(trained.dataset.dropped),
        },
        "config": asdict(trained.config),
    }
