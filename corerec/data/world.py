"""The generated world's items and people: who and what there is, before anybody buys anything.

Seconds count from the world's first Monday. A shelf is one category and one topic in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from corerec.data.words import AGE_BANDS, CATEGORIES, COUNTRIES, DEVICES

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

START_MICROS = 1_704_067_200_000_000
"""2024-01-01 00:00 UTC, a Monday."""
WEEKS = 52
DAY = 86_400.0
WEEK = 7 * DAY
SLOTS = 5
"""Interests that a person has at a time."""
STYLE_DIM = 6
VECTOR_DIM = 32
_SLOT_WEIGHTS = np.array([0.40, 0.25, 0.17, 0.11, 0.07])
_DAYPARTS = 10


@dataclass(frozen=True, kw_only=True)
class World:
    """Items as columns, N of them, and the shelves they lie on."""

    topics: int
    category: NDArray[np.int16]
    shelf: NDArray[np.int32]
    creator: NDArray[np.int32]
    weight: NDArray[np.float32]
    """(N,) popularity before novelty and fashion."""
    born: NDArray[np.float32]
    """(N,) seconds; negative is before the world's first day."""
    price_level: NDArray[np.float32]
    """(N,) dear or cheap for its category, standard normal."""
    period: NDArray[np.float32]
    phase: NDArray[np.float32]
    shelf_weight: Floats
    companion: Ints
    """(S,) the shelf that people turn to after this one."""
    creators: int
    habits: Floats
    """(10, C) how much each category is wanted by part of the day, weekdays then weekends."""

    def __len__(self) -> int:
        return len(self.category)


@dataclass(frozen=True, kw_only=True)
class People:
    """Users as columns, U of them."""

    age_band: Ints
    country: Ints
    device: Ints
    activity: Floats
    joined_week: Ints
    clock: Ints
    """(U,) early, office, evening or night person."""
    shelves: NDArray[np.int32]
    """(2, U, SLOTS) interests before and after they change."""
    change: Floats
    """(U, SLOTS) second at which an interest changes."""
    weights: Floats
    """(2, U, SLOTS) share of each interest on the first and on the last day."""
    creators: Ints
    """(U, 3) creators that the person comes back to."""
    price_level: Floats
    style: NDArray[np.float32]
    """(U, STYLE_DIM) what the person finds pretty."""

    def __len__(self) -> int:
        return len(self.activity)


def rng_of(seed: int, *stream: int) -> Generator:
    """Return the generator of one named stream, independent of every other."""
    return np.random.default_rng([seed, *stream])


def make_world(items: int, seed: int) -> World:
    """Return the world's items; the same for the same arguments."""
    rng = rng_of(seed, 1)
    kinds = len(CATEGORIES)
    topics = int(np.clip(items // (kinds * 40), 1, 250))
    shelves = kinds * topics
    shelf_weight = np.exp(
        np.repeat(rng.normal(0, 0.8, kinds), topics) + rng.normal(0, 0.7, shelves)
    )
    shelf = _pick(np.sqrt(shelf_weight), items, rng).astype(np.int32)
    category = (shelf // topics).astype(np.int16)
    per_kind = max(2, items // (kinds * 25))
    creator = category + kinds * (per_kind * rng.random(items) ** 1.6).astype(np.int32)
    zipf = (rng.permutation(items) + 5.0) ** -0.85
    old = rng.random(items) < 0.65
    born = np.where(old, -900 * DAY * rng.random(items), WEEK * WEEKS * 0.97 * rng.random(items))
    companion = rng.permutation(shelves)
    return World(
        topics=topics,
        category=category,
        shelf=shelf,
        creator=creator.astype(np.int32),
        weight=(zipf * np.sqrt(shelf_weight)[shelf]).astype(np.float32),
        born=born.astype(np.float32),
        price_level=rng.standard_normal(items, np.float32),
        period=rng.uniform(90 * DAY, 365 * DAY, items).astype(np.float32),
        phase=rng.random(items, np.float32),
        shelf_weight=shelf_weight,
        companion=companion,
        creators=kinds * per_kind,
        habits=np.exp(rng.normal(0, 0.9, (_DAYPARTS, kinds))),
    )


def make_people(users: int, world: World, seed: int) -> People:
    """Return the world's users; the same for the same arguments."""
    rng = rng_of(seed, 2)
    kinds = len(CATEGORIES)
    age = _pick(np.array([0.16, 0.24, 0.21, 0.17, 0.13, 0.09]), users, rng)
    # What an age group likes, on top of what everybody likes.
    tilt = np.repeat(np.exp(rng.normal(0, 0.7, (len(AGE_BANDS), kinds))), world.topics, axis=1)
    wanted = tilt * world.shelf_weight
    before = _pick_rows(wanted, np.repeat(age, SLOTS), rng).reshape(users, SLOTS)
    fresh = _pick_rows(wanted, np.repeat(age, SLOTS), rng).reshape(users, SLOTS)
    near = before // world.topics * world.topics + rng.integers(0, world.topics, before.shape)
    after = np.where(rng.random(before.shape) < 0.5, near, fresh)
    weights = rng.permuted(np.tile(_SLOT_WEIGHTS, (2, users, 1)), axis=2)
    weights[0] = _SLOT_WEIGHTS
    later = rng.random(users) < 0.3
    per_kind = world.creators // kinds
    liked = before[:, :3] // world.topics + kinds * rng.integers(0, per_kind, (users, 3))
    return People(
        age_band=age,
        country=_pick(np.array([0.2, 0.15, 0.15, 0.2, 0.1, 0.1, 0.06, 0.04]), users, rng),
        device=_pick(np.array([0.55, 0.35, 0.1]), users, rng),
        activity=np.exp(rng.normal(0, 0.8, users)),
        joined_week=np.where(later, rng.integers(0, WEEKS - 2, users), 0),
        clock=_pick(np.array([0.2, 0.25, 0.4, 0.15]), users, rng),
        shelves=np.stack([before, after]).astype(np.int32),
        change=np.where(
            rng.random((users, SLOTS)) < 0.6, rng.random((users, SLOTS)) * WEEKS * WEEK, np.inf
        ),
        weights=weights,
        creators=liked,
        price_level=rng.standard_normal(users),
        style=rng.standard_normal((users, STYLE_DIM), np.float32),
    )


def item_styles(start: int, count: int, seed: int) -> NDArray[np.float32]:
    """Return (count, STYLE_DIM) looks of the items from number `start`, a multiple of the chunk."""
    return rng_of(seed, 3, start).standard_normal((count, STYLE_DIM), np.float32)


def item_vectors(
    world: World, styles: NDArray[np.float32], start: int, seed: int
) -> NDArray[np.float32]:
    """Return (count, VECTOR_DIM) image-like vectors: shelf, creator and looks, with noise."""
    rng = rng_of(seed, 4)
    kinds, depth = len(CATEGORIES), VECTOR_DIM
    category = rng.standard_normal((kinds, depth), np.float32)
    topic = rng.standard_normal((kinds * world.topics, depth), np.float32)
    creator = 0.5 * rng.standard_normal((world.creators, depth), np.float32)
    eye = rng.standard_normal((STYLE_DIM, depth), np.float32) / np.float32(np.sqrt(STYLE_DIM))
    part = slice(start, start + len(styles))
    vectors = category[world.category[part]] + topic[world.shelf[part]]
    vectors += creator[world.creator[part]] + styles @ eye
    vectors += 0.4 * rng_of(seed, 5, start).standard_normal(vectors.shape, np.float32)
    return np.asarray(vectors, np.float32)


def attribute_names() -> dict[str, tuple[str, ...]]:
    """Return the words behind the codes of age_band, country and device."""
    return {"age_band": AGE_BANDS, "country": COUNTRIES, "device": DEVICES}


def _pick(weights: Floats, count: int, rng: Generator) -> Ints:
    cumulative = np.cumsum(weights)
    dice = rng.random(count) * cumulative[-1]
    places: Ints = np.searchsorted(cumulative, dice, side="right")
    return places


def _pick_rows(weights: Floats, rows: Ints, rng: Generator) -> Ints:
    """Return one column for each entry of `rows`, drawn with that row's weights."""
    picked = np.empty(len(rows), np.int64)
    for row in range(len(weights)):
        at = np.flatnonzero(rows == row)
        picked[at] = _pick(weights[row], len(at), rng)
    return picked
