"""Puts the generated world's items into words: titles, creators' names, materials, tags, prices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corerec.data.words import (
    CATEGORIES,
    EXTRAS,
    MATERIALS,
    SEASONS,
    STYLES,
    SYLLABLES_1,
    SYLLABLES_2,
    SYLLABLES_3,
)
from corerec.data.world import START_MICROS, World, rng_of


def item_table(world: World, start: int, end: int, seed: int) -> pl.DataFrame:
    """Return the catalogue rows of the items from `start` up to `end`."""
    rng = rng_of(seed, 9, start)
    count = end - start
    kind = world.category[start:end].astype(np.int64)
    topic = world.shelf[start:end].astype(np.int64) % world.topics
    creator = _creator_names(world.creators).gather(world.creator[start:end])
    # A topic is seen in the title: one style word, and one material most of the time.
    style = (topic * 7 + kind * 11) % len(STYLES)
    usual = (topic + kind * 3) % len(MATERIALS)
    other = rng.integers(0, len(MATERIALS), count)
    material = _gather(MATERIALS, np.where(rng.random(count) < 0.6, usual, other))
    nouns = [noun for text in CATEGORIES.values() for noun in text.replace("-", "~").split()]
    per_kind = len(nouns) // len(CATEGORIES)
    noun = _gather(nouns, kind * per_kind + rng.integers(0, per_kind, count)).str.replace("~", " ")
    model = pl.Series(rng.integers(1, 100, count)).cast(pl.String)
    base = np.exp(rng_of(seed, 10).normal(3.5, 0.8, len(CATEGORIES)))
    price = np.round(base[kind] * np.exp(0.5 * world.price_level[start:end]), 2)
    columns = pl.DataFrame(
        {
            "item_id": numbered_ids("i", np.arange(start, end), 7),
            "creator": creator,
            "style": _gather(STYLES, style),
            "material": material,
            "noun": noun,
            "model": model,
            "category": _gather(tuple(CATEGORIES), kind),
            "born": START_MICROS
            + (world.born[start:end].astype(np.float64) * 1e6).astype(np.int64),
            "price": price.astype(np.float64),
            "season": _gather(SEASONS, rng.integers(0, len(SEASONS), count)),
            "extra": _gather(EXTRAS, (topic * 3 + rng.integers(0, 3, count)) % len(EXTRAS)),
        }
    )
    return columns.select(
        "item_id",
        pl.concat_str("creator", "style", "material", "noun", "model", separator=" ").alias(
            "title"
        ),
        "category",
        "creator",
        "born",
        "style",
        "material",
        pl.concat_list("season", "extra").alias("tags"),
        "price",
    )


def numbered_ids(prefix: str, numbers: NDArray[np.int64], width: int) -> pl.Series:
    """Return ids such as `i0000042`."""
    digits = pl.Series(numbers).cast(pl.String).str.zfill(width)
    return pl.select(pl.concat_str(pl.lit(prefix), digits)).to_series()


def _creator_names(count: int) -> pl.Series:
    """Return `count` different names of two or three syllables, numbered when these run out."""
    number = np.arange(count)
    # A stride without common factors, so that neighbours do not sound alike.
    total = len(SYLLABLES_1) * len(SYLLABLES_2) * len(SYLLABLES_3)
    mixed = number * 1009 % total
    frame = pl.DataFrame(
        {
            "a": _gather(SYLLABLES_1, mixed % len(SYLLABLES_1)),
            "b": _gather(SYLLABLES_2, mixed // len(SYLLABLES_1) % len(SYLLABLES_2)),
            "c": _gather(SYLLABLES_3, mixed // (len(SYLLABLES_1) * len(SYLLABLES_2))),
            "again": pl.Series(number // total),
        }
    )
    name = pl.concat_str("a", "b", "c")
    again = pl.when(pl.col("again") > 0).then(name + "-" + pl.col("again").cast(pl.String))
    return frame.select(again.otherwise(name)).to_series()


def _gather(words: Sequence[str], codes: NDArray[np.int64]) -> pl.Series:
    return pl.Series(list(words), dtype=pl.String).gather(codes)
