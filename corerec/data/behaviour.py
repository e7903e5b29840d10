"""What the generated people do: sessions in time, and in each the next item after the last one.

The next item hangs on the person's slow tastes, on the session's shelf and creator, on what is
new and in fashion, and on the hour. Nobody takes an item twice, or before it is born.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from corerec.data.words import UTC_HOURS
from corerec.data.world import DAY, WEEK, WEEKS, Floats, Ints, People, World

_MEAN_LENGTH = 4.0
_LONGEST = 30
_STEPS = np.cumsum([0.45, 0.20, 0.15])
"""Shares of steps that keep the shelf, keep the creator, go to the shelf's companion, summed."""
_LOYAL, _POPULAR = 0.12, 0.06
"""Shares of fresh looks that start at a liked creator, or at what everybody takes."""
_CANDIDATES = 3
_WEEKDAYS = np.array([[1.1, 1.0, 1.0, 1.0, 0.9, 0.8, 1.2], [0.5, 0.5, 0.5, 0.6, 1.0, 2.0, 1.9]])
_PEAKS = ((7.0, 12.5), (12.5, 17.5), (20.0, 21.5), (23.0, 1.5))


@dataclass(frozen=True)
class Events:
    """Interactions as columns."""

    user: Ints
    item: Ints
    seconds: Floats


class Shelves:
    """Draws items of a group by weight, in one week."""

    def __init__(self, order: Ints, starts: Ints, weights: NDArray[np.floating]) -> None:
        self._order, self._starts = order, starts
        self._sums = np.concatenate([[0.0], np.cumsum(weights[order])])

    def draw(self, groups: Ints, rng: Generator) -> Ints:
        """Return one item number for each group, -1 where the group has none yet."""
        low = self._sums[self._starts[groups]]
        high = self._sums[self._starts[groups + 1]]
        at = np.searchsorted(self._sums, low + rng.random(len(groups)) * (high - low), "right") - 1
        last = np.maximum(self._starts[groups + 1] - 1, 0)
        return np.where(high > low, self._order[np.minimum(at, last)], -1)


class Seen:
    """Remembers pairs of user and item; may take a new pair for an old one, never the reverse."""

    def __init__(self, events: int) -> None:
        bits = max(16, int(np.ceil(np.log2(24 * events + 1))))
        self._shift = np.uint64(64 - bits)
        self._marks = np.zeros(1 << bits, bool)

    def _slots(self, users: Ints, items: Ints) -> NDArray[np.uint64]:
        mixed = users.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= items.astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
        mixed *= np.uint64(0xD6E8FEB86659FD93)
        return mixed >> self._shift

    def has(self, users: Ints, items: Ints) -> NDArray[np.bool_]:
        return self._marks[self._slots(users, items)]

    def add(self, users: Ints, items: Ints) -> None:
        self._marks[self._slots(users, items)] = True


class Week:
    """One week's shop: what is born, new and in fashion, and how people choose from it."""

    def __init__(self, shop: Shop, week: int) -> None:
        world, now = shop.world, week * WEEK
        age = (now - world.born) / DAY
        fashion = np.exp(0.8 * np.sin(2 * np.pi * (now / world.period + world.phase)))
        novelty = 1 + 4 * np.exp(-np.maximum(age, 0) / 14)
        weights = np.where(age >= 0, world.weight * fashion * novelty, 0.0)
        self._by_shelf = Shelves(shop.shelf_order, shop.shelf_starts, weights)
        self._by_creator = Shelves(shop.creator_order, shop.creator_starts, weights)
        everything = np.array([0, len(world)])
        self._all = Shelves(shop.shelf_order, everything, weights)
        self._flat = Shelves(shop.shelf_order, shop.shelf_starts, (age >= 0) * 1.0)
        self._flat_all = Shelves(shop.shelf_order, everything, (age >= 0) * 1.0)
        self._shop, self._rng = shop, shop.rng

    def fresh(self, users: Ints, seconds: Floats) -> tuple[Ints, Ints]:
        """Return where a fresh look starts: kind (0 shelf, 1 creator, 2 all) and group."""
        rng, people = self._rng, self._shop.people
        dice = rng.random(len(users))
        kinds = np.where(dice < _LOYAL, 1, np.where(dice < _LOYAL + _POPULAR, 2, 0))
        liked = people.creators[users, rng.integers(0, 3, len(users))]
        shelf = self._taste(users, seconds)
        return kinds, np.where(kinds == 0, shelf, np.where(kinds == 1, liked, 0))

    def next(self, users: Ints, seconds: Floats, last: Ints) -> tuple[Ints, Ints]:
        """Return where the look after item `last` goes; -1 is a session's first look."""
        world = self._shop.world
        # A die of 1 asks for a fresh look.
        dice = np.where(last < 0, 1.0, self._rng.random(len(users)))
        step = np.searchsorted(_STEPS, dice, side="right")
        shelf = world.shelf[last]
        groups = np.choose(step, [shelf, world.creator[last], world.companion[shelf], 0])
        kinds = np.where(step == 1, 1, 0)
        at = np.flatnonzero(step == 3)
        kinds[at], groups[at] = self.fresh(users[at], seconds[at])
        return kinds, groups

    def choose(self, users: Ints, seconds: Floats, kinds: Ints, groups: Ints) -> Ints:
        """Return an unseen item for each user, -1 where there is none to be found."""
        chosen = np.full(len(users), -1)
        for attempt in range(6):
            open_ = np.flatnonzero(chosen < 0)
            if len(open_) == 0:
                break
            who, kind, group = users[open_], kinds[open_], groups[open_]
            if attempt in (2, 3):
                kind, group = np.zeros_like(kind), self._taste(who, seconds[open_])
            elif attempt > 3:
                kind, group = np.full_like(kind, 2), np.zeros_like(group)
            drawn = [self._draw(kind, group, flat=attempt > 0) for _ in range(_CANDIDATES)]
            chosen[open_] = self._prettiest(who, np.stack(drawn))
        return chosen

    def _draw(self, kinds: Ints, groups: Ints, *, flat: bool) -> Ints:
        items = np.empty(len(kinds), np.int64)
        shelves, all_ = (self._flat, self._flat_all) if flat else (self._by_shelf, self._all)
        for kind, source in enumerate((shelves, self._by_creator, all_)):
            at = np.flatnonzero(kinds == kind)
            if len(at):
                items[at] = source.draw(groups[at], self._rng)
        return items

    def _prettiest(self, users: Ints, items: Ints) -> Ints:
        """Return of each column of (candidates, users) items the unseen one that is liked most."""
        shop = self._shop
        liking = np.einsum("kud,ud->ku", shop.styles[items], shop.people.style[users])
        liking -= 0.8 * np.abs(shop.world.price_level[items] - shop.people.price_level[users])
        liking += self._rng.gumbel(0, 0.8, liking.shape)
        bad = (items < 0) | shop.seen.has(np.broadcast_to(users, items.shape), items)
        best = np.where(bad, -np.inf, liking).argmax(axis=0)
        columns = np.arange(len(users))
        return np.where(bad[best, columns], -1, items[best, columns])

    def _taste(self, users: Ints, seconds: Floats) -> Ints:
        """Return a shelf of each person's interests, as they are on that day and at that hour."""
        people, world = self._shop.people, self._shop.world
        changed = seconds[:, None] >= people.change[users]
        shelves = np.where(changed, people.shelves[1, users], people.shelves[0, users])
        ripe = (seconds / (WEEKS * WEEK))[:, None]
        weights = people.weights[0, users] * (1 - ripe) + people.weights[1, users] * ripe
        part = daypart(seconds, people.country[users])
        weights = np.cumsum(weights * world.habits[part[:, None], shelves // world.topics], axis=1)
        dice = self._rng.random(len(users))[:, None] * weights[:, -1:]
        slot = np.minimum((weights <= dice).sum(axis=1), shelves.shape[1] - 1)
        chosen: Ints = shelves[np.arange(len(users)), slot].astype(np.int64)
        return chosen


class Shop:
    """What stays the same from week to week, and what has been taken so far."""

    def __init__(
        self, world: World, people: People, styles: NDArray[np.float32], events: int, rng: Generator
    ) -> None:
        self.world, self.people, self.styles, self.rng = world, people, styles, rng
        self.seen = Seen(events)
        self.shelf_order, self.shelf_starts = _grouped(world.shelf, len(world.shelf_weight))
        self.creator_order, self.creator_starts = _grouped(world.creator, world.creators)


def daypart(seconds: Floats, country: Ints) -> Ints:
    """Return 0..4 for night, morning, midday, afternoon, evening; 5 more at the weekend."""
    local = seconds + 3600.0 * np.array(UTC_HOURS)[country]
    hour = local % DAY / 3600
    weekend = (local // DAY % 7) >= 5
    part = np.searchsorted(np.array([6, 11, 15, 18]), hour, side="right")
    return (part + 5 * weekend).astype(np.int64)


def simulate(shop: Shop, events: int, advance: Callable[[int], None]) -> Events:
    """Return about `events` interactions, in no order; `advance` is told how many came to be."""
    users, starts, lengths = _plan_sessions(shop.people, events, shop.rng)
    weeks = np.clip(starts // WEEK, 0, WEEKS - 1).astype(np.int64)
    order = np.argsort(weeks, kind="stable")
    bounds = np.searchsorted(weeks[order], np.arange(WEEKS + 1))
    parts: list[tuple[Ints, Ints, Floats]] = []
    for week in range(WEEKS):
        at = order[bounds[week] : bounds[week + 1]]
        found = _live(Week(shop, week), shop, users[at], starts[at], lengths[at])
        parts += found
        advance(sum(len(part[0]) for part in found))
    user, item, seconds = (np.concatenate([part[i] for part in parts]) for i in range(3))
    return Events(user.astype(np.int64), item.astype(np.int64), seconds.astype(np.float64))


def _live(
    week: Week, shop: Shop, users: Ints, starts: Floats, lengths: Ints
) -> list[tuple[Ints, Ints, Floats]]:
    """Return the events of one week's sessions, step by step through all sessions at once."""
    clock, last = starts.copy(), np.full(len(users), -1)
    found = []
    for step in range(_LONGEST):
        at = np.flatnonzero(lengths > step)
        if len(at) == 0:
            break
        who, now = users[at], clock[at]
        kinds, groups = week.next(who, now, last[at])
        items = week.choose(who, now, kinds, groups)
        # Two sessions of one person may find the same item in the same step.
        first = np.unique(who * len(shop.world) + items, return_index=True)[1]
        first = first[items[first] >= 0]
        shop.seen.add(who[first], items[first])
        found.append((who[first], items[first], now[first]))
        last[at[first]] = items[first]
        clock[at] += 8 + shop.rng.exponential(80, len(at))
    return found


def _plan_sessions(people: People, events: int, rng: Generator) -> tuple[Ints, Floats, Ints]:
    """Return each session's user, first second and number of looks."""
    count = max(len(people), int(events / _MEAN_LENGTH) + 1)
    share = np.cumsum(people.activity)
    drawn = np.searchsorted(share, rng.random(count - len(people)) * share[-1], side="right")
    users = np.concatenate([np.arange(len(people)), drawn])
    joined = people.joined_week[users]
    week = joined + (rng.random(count) * (WEEKS - joined)).astype(np.int64)
    clock = people.clock[users]
    day = _pick_from(_WEEKDAYS / _WEEKDAYS.sum(axis=1, keepdims=True), clock % 2, rng)
    late = (day >= 5).astype(np.int64)
    hour = np.array(_PEAKS)[clock, late] + rng.normal(0, 1.6, count)
    away = np.array(UTC_HOURS)[people.country[users]]
    start = week * WEEK + day * DAY + 3600 * (hour - away)
    start = np.clip(start, rng.uniform(0, 3600, count), WEEKS * WEEK - 2 * 3600)
    lengths = np.minimum(rng.geometric(1 / _MEAN_LENGTH, count), _LONGEST)
    return users, start, lengths


def _pick_from(shares: Floats, rows: Ints, rng: Generator) -> Ints:
    dice = rng.random(len(rows))[:, None]
    places: Ints = (np.cumsum(shares, axis=1)[rows, :-1] <= dice).sum(axis=1)
    return places


def _grouped(groups: NDArray[np.int32], count: int) -> tuple[Ints, Ints]:
    order = np.argsort(groups, kind="stable")
    return order, np.searchsorted(groups[order], np.arange(count + 1))
