"""Makes the lists that a release's options ask for, of its tables or of those of a training."""

# N items, E events

from __future__ import annotations

from functools import cached_property
from typing import Protocol

import numpy as np
import polars as pl

from corerec.ranking.transitions import TransitionTable
from corerec.release import Release
from corerec.retrieval.fresh import Fresh
from corerec.retrieval.item_to_item import ItemToItem
from corerec.retrieval.lists import ItemList
from corerec.retrieval.options import LISTS, RetrievalOptions
from corerec.retrieval.trending import Trending
from corerec.stages import Int64s


class ListTables(Protocol):
    """What lists are made of; a table is read when a list needs it."""

    @property
    def items(self) -> Int64s:
        """(E,) item numbers of events."""
        ...

    @property
    def times(self) -> Int64s:
        """(E,) their times, microseconds since 1970."""
        ...

    @property
    def transitions(self) -> TransitionTable:
        """Which items follow which."""
        ...

    @property
    def born_micros(self) -> Int64s:
        """(N,) when each item came to be, microseconds since 1970; -1 is unknown."""
        ...

    @property
    def end(self) -> int:
        """Where the data ends, microseconds since 1970."""
        ...


class ReleaseTables:
    """The tables of a release."""

    def __init__(self, release: Release) -> None:
        self._release = release

    @property
    def end(self) -> int:
        """Where the data ends, microseconds since 1970."""
        return int(self._release.info["data_end_micros"])

    @cached_property
    def _events(self) -> pl.DataFrame:
        columns = ["item_number", "event_time_micros"]
        return pl.read_parquet(self._release.file("histories.parquet"), columns=columns)

    @property
    def items(self) -> Int64s:
        """(E,) item numbers of the users' newest events."""
        return self._events["item_number"].cast(pl.Int64).to_numpy()

    @property
    def times(self) -> Int64s:
        """(E,) times of the same events."""
        return self._events["event_time_micros"].cast(pl.Int64).to_numpy()

    @property
    def transitions(self) -> TransitionTable:
        """Which items follow which."""
        return TransitionTable.load(self._release.file("transitions.safetensors"))

    @property
    def born_micros(self) -> Int64s:
        """(N,) when each item came to be; -1 is unknown."""
        return np.asarray(self._release.catalogue.born_micros, np.int64)


def make_lists(
    tables: ListTables,
    options: RetrievalOptions,
    shard: int = 0,
    shards: int = 1,
) -> list[ItemList]:
    """Return the lists that the quotas name, in the order of their turns, of one shard."""
    found: list[ItemList] = []
    for kind in LISTS:
        if kind not in options.quotas:
            continue
        if kind == "trending":
            hours = options.trending_half_life_hours
            found.append(
                Trending(
                    tables.items,
                    tables.times,
                    end=tables.end,
                    half_life_hours=hours,
                    shard=shard,
                    shards=shards,
                )
            )
        elif kind == "fresh":
            found.append(Fresh(tables.born_micros, end=tables.end, shard=shard, shards=shards))
        else:
            found.append(ItemToItem(tables.transitions, shard=shard, shards=shards))
    return found
