"""What every step of a training reads: the data set sliced, and its features as arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from corerec.data.dataset import Dataset
from corerec.errors import DataError
from corerec.evaluation.cases import Cases
from corerec.features import FeatureSchema, ItemFeatures, UserFeatures, UserIndex
from corerec.pipelines.config import TrainConfig
from corerec.pipelines.slices import Events, Slice
from corerec.pipelines.tables import user_attributes
from corerec.retrieval.popular import PopularList
from corerec.stages import Int64s, UserContext


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A data set, sliced and encoded."""

    dataset: Dataset
    events: Events
    schema: FeatureSchema
    features: ItemFeatures
    users: UserFeatures
    """The table of all users; row 0 is the unknown one."""

    @cached_property
    def user_ids(self) -> list[str]:
        """Ids by user row."""
        return self.dataset.users["user_id"].to_list()

    @cached_property
    def attributes(self) -> list[Mapping[str, str]]:
        """Attributes by user row, as requests carry them."""
        return user_attributes(self.dataset)

    @cached_property
    def index(self) -> UserIndex:
        """From user id to row."""
        return UserIndex(self.user_ids)

    def contexts(self, cases: Cases, rows: Int64s) -> list[UserContext]:
        """Return what requests at the moments of these cases would have carried."""
        return cases.contexts(rows, self.user_ids, self.attributes)

    def popular(self, stop: Slice) -> PopularList:
        """Return the popular list as it stood when a slice began."""
        events, known = self.events, self.events.before(stop)
        times = events.times[known] if events.has_times else None
        return PopularList.count(events.items[known], times, events.item_count)

    def dataset_before(self, stop: Slice) -> Dataset:
        """Return the data set with the interactions before a slice alone."""
        rows = np.sort(self.events.order[self.events.before(stop)])
        return replace(self.dataset, interactions=self.dataset.interactions[pl.Series(rows)])


def prepare(dataset: Dataset, config: TrainConfig) -> Parts:
    """Slice and encode a data set. Raises DataError when a slice would be empty."""
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


def data_digest(dataset_dir: Path) -> str:
    """Return a digest of the files of a data set folder, 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted(p for p in dataset_dir.glob("*") if p.is_file()):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]
