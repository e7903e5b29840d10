"""Writes a generated world as a data set folder: the same bytes for the same arguments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from numpy.random import Generator

from corerec.data.behaviour import Events, Shop, simulate
from corerec.data.spec import DatasetSpec, InteractionsSpec, ItemsSpec, UsersSpec
from corerec.data.titles import item_table, numbered_ids
from corerec.data.world import (
    START_MICROS,
    VECTOR_DIM,
    WEEK,
    WEEKS,
    People,
    World,
    attribute_names,
    item_styles,
    item_vectors,
    make_people,
    make_world,
    rng_of,
)
from corerec.data.write import staged_folder, write_spec
from corerec.errors import InvalidArgument

Report = Callable[[str, int, int], None]
"""Called with the name of a step, how much of it is done, and how much there is."""

CHUNK = 1 << 18
"""Items that are made and written at a time."""
_ROOM = 0.5
"""Greatest part of all pairs of user and item that may be interactions."""


def _silent(step: str, done: int, total: int) -> None:
    return None


def generate(
    out: Path,
    *,
    users: int = 20_000,
    items: int = 20_000,
    interactions: int = 1_000_000,
    seed: int = 0,
    overwrite: bool = False,
    report: Report = _silent,
) -> None:
    """Write a world of shoppers to the folder `out`.

    With 0 interactions only the catalogue and its vectors are written, in bounded memory, for
    load tests of large catalogues.

    Raises:
        InvalidArgument: a count is out of range, or `out` exists and may not be replaced.
    """
    _check(users, items, interactions, seed)
    with staged_folder(out, overwrite=overwrite) as stage:
        world = make_world(items, seed)
        styles = _write_items(stage, world, seed, keep_styles=interactions > 0, report=report)
        if interactions:
            people = make_people(users, world, seed)
            _write_users(stage, people)
            shop = Shop(world, people, styles, interactions, rng_of(seed, 6))
            _write_events(stage, _events(shop, interactions, rng_of(seed, 7), report), seed)
        write_spec(stage, _spec(users, items, interactions, seed))


def _check(users: int, items: int, interactions: int, seed: int) -> None:
    if users < 1 or items < 10 or interactions < 0 or seed < 0:
        raise InvalidArgument(
            "users must be >= 1, items >= 10, interactions >= 0 and seed >= 0, "
            f"got {users}, {items}, {interactions} and {seed}"
        )
    if interactions and interactions < users:
        raise InvalidArgument(
            f"interactions must be at least one for each user, got {interactions} for {users}"
        )
    if interactions > _ROOM * users * items:
        raise InvalidArgument(
            f"interactions must be at most half of all pairs of user and item "
            f"({int(_ROOM * users * items)}), got {interactions}"
        )


def _spec(users: int, items: int, interactions: int, seed: int) -> DatasetSpec:
    return DatasetSpec(
        format=1,
        name=f"generated-{users}-users-{items}-items-{interactions}-interactions-seed-{seed}",
        interactions=InteractionsSpec(
            file="interactions.parquet", time="timestamp", time_unit="us", event_type="event_type"
        )
        if interactions
        else InteractionsSpec(),
        items=ItemsSpec(
            file="items.parquet",
            title="title",
            category="category",
            creator="creator",
            born="born",
            born_unit="us",
            categorical=("style", "material"),
            multi=("tags",),
            numeric=("price",),
        ),
        users=UsersSpec(file="users.parquet", categorical=tuple(attribute_names()))
        if interactions
        else UsersSpec(),
        vectors={"image": "image.npy"},
    )


def _write_items(
    stage: Path, world: World, seed: int, *, keep_styles: bool, report: Report
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Write items and vectors chunk by chunk; return all looks if they are to be kept."""
    count = len(world)
    vectors = np.lib.format.open_memmap(
        stage / "image.npy", mode="w+", dtype=np.float32, shape=(count, VECTOR_DIM)
    )
    kept, parts = [], []
    report("items", 0, count)
    for start in range(0, count, CHUNK):
        end = min(start + CHUNK, count)
        styles = item_styles(start, end - start, seed)
        vectors[start:end] = item_vectors(world, styles, start, seed)
        parts.append(stage / f"part-{start}.parquet")
        item_table(world, start, end, seed).write_parquet(parts[-1])
        if keep_styles:
            kept.append(styles)
        report("items", end, count)
    vectors.flush()
    if len(parts) == 1:
        parts[0].rename(stage / "items.parquet")
    else:
        pl.scan_parquet(parts).sink_parquet(stage / "items.parquet", maintain_order=True)
        for part in parts:
            part.unlink()
    return np.concatenate(kept) if kept else np.empty((0, 0), np.float32)


def _write_users(stage: Path, people: People) -> None:
    columns = {"user_id": numbered_ids("u", np.arange(len(people)), 6)}
    for name, words in attribute_names().items():
        columns[name] = pl.Series(words).gather(getattr(people, name))
    pl.DataFrame(columns).write_parquet(stage / "users.parquet")


def _events(shop: Shop, wanted: int, rng: Generator, report: Report) -> Events:
    """Return exactly `wanted` interactions in the order of time, no pair of user and item twice."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        report("interactions", min(done, wanted), wanted)

    report("interactions", 0, wanted)
    # A little more than wanted, since looks that find nothing new come to nothing.
    events = simulate(shop, int(wanted * 1.04), advance)
    if len(events.user) < wanted:
        events = _fill(shop, events, wanted - len(events.user), rng)
    keep = np.sort(rng.permutation(len(events.user))[:wanted])
    keep = keep[np.lexsort((events.item[keep], events.user[keep], events.seconds[keep]))]
    report("interactions", wanted, wanted)
    return Events(events.user[keep], events.item[keep], events.seconds[keep])


def _fill(shop: Shop, events: Events, missing: int, rng: Generator) -> Events:
    """Add new pairs at random: only a crowded little world needs it."""
    items = len(shop.world)
    end = WEEKS * WEEK - 1
    while missing:
        old = events.user * items + events.item
        pairs = np.unique(rng.integers(0, len(shop.people) * items, 2 * missing + 16))
        pairs = rng.permutation(pairs[~np.isin(pairs, old)])[:missing]
        user, item = pairs // items, pairs % items
        born = np.maximum(shop.world.born[item].astype(np.float64), 0)
        seconds = born + rng.random(len(pairs)) * (end - born)
        events = Events(
            np.concatenate([events.user, user]),
            np.concatenate([events.item, item]),
            np.concatenate([events.seconds, seconds]),
        )
        missing -= len(pairs)
    return events


def _write_events(stage: Path, events: Events, seed: int) -> None:
    bought = rng_of(seed, 8).random(len(events.user)) < 0.2
    frame = pl.DataFrame(
        {
            "user_id": numbered_ids("u", events.user, 6),
            "item_id": numbered_ids("i", events.item, 7),
            "timestamp": START_MICROS + np.round(events.seconds * 1e6).astype(np.int64),
            "event_type": pl.Series(("click", "buy")).gather(bought.astype(np.int64)),
        }
    )
    frame.write_parquet(stage / "interactions.parquet")
