"""Rules resolved against one catalogue: names become numbers, so that a request needs only arrays.

Imports NumPy and no vectors: the gateway blocks with it when reranking is down.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from corerec.live.arrays import Growing, room_for
from corerec.live.catalogue import LiveCatalogue
from corerec.release.catalogue import Catalogue
from corerec.rerank.rules import RerankRules, check_rules
from corerec.store.catalogue import ItemChange

DAY_MICROS = 86_400_000_000


@dataclass(kw_only=True)
class CompiledRules:
    """Rules of one catalogue of N items; `apply` lets them follow it."""

    rules: RerankRules
    """The rules as they were declared."""
    blocked: NDArray[np.bool_]
    """(N,) whether an item is never shown."""
    pins: tuple[tuple[int, int], ...]
    """(position from 1, item number) of the pins that the catalogue has, by position."""
    category_factors: NDArray[np.float64]
    """(C + 1 or more,) boost by category code; the last, which code -1 reads, is 1."""
    creator_factors: NDArray[np.float64]
    """(C + 1 or more,) boost by creator code; the last, which code -1 reads, is 1."""
    warnings: tuple[str, ...]
    """Names in the rules that the catalogue did not have at first."""

    def __post_init__(self) -> None:
        """Give the arrays room."""
        self._room = Growing(self.blocked, False)
        self.blocked = self._room.values
        self._items, self._pinned = set(self.rules.block.items), {n for _, n in self.pins}
        self._categories = set(self.rules.block.categories)
        self._creators = set(self.rules.block.creators)
        self._named = len(self.category_factors) - 1, len(self.creator_factors) - 1

    def reach(self, count: int) -> None:
        """Have a row for every number below `count`; nothing blocks those that are new."""
        self._room.grow(count)
        self.blocked = self._room.values

    def apply(self, changes: Sequence[ItemChange], catalogue: LiveCatalogue) -> None:
        """Take changes that the catalogue has taken: names of rules that come alive hold now."""
        self.reach(len(catalogue))
        for change in changes:
            number, item_id = change.number, change.item_id
            self.blocked[number] = (
                item_id in self._items
                or catalogue.categories[number] in self._categories
                or catalogue.creators[number] in self._creators
            )
            if item_id in self.rules.pins and number not in self._pinned:
                self._pinned.add(number)
                self.pins = tuple(sorted((*self.pins, (self.rules.pins[item_id], number))))
        boosts = self.rules.boosts
        self.category_factors = _more_factors(
            self.category_factors, boosts.categories, catalogue.category_names, self._named[0]
        )
        self.creator_factors = _more_factors(
            self.creator_factors, boosts.creators, catalogue.creator_names, self._named[1]
        )
        self._named = len(catalogue.category_names), len(catalogue.creator_names)


def compile_rules(rules: RerankRules, catalogue: Catalogue | LiveCatalogue) -> CompiledRules:
    """Return the rules resolved against the catalogue.

    Raises:
        ConfigError: a value is out of its range.
    """
    check_rules(rules)
    warnings: list[str] = []
    pins = []
    for item, number in _known_items(rules.pins, catalogue, "pins", warnings):
        pins.append((rules.pins[item], number))
    categories = catalogue.category_names
    creators = catalogue.creator_names
    by_category = _factors(rules.boosts.categories, categories, "boosts.categories", warnings)
    by_creator = _factors(rules.boosts.creators, creators, "boosts.creators", warnings)
    return CompiledRules(
        rules=rules,
        blocked=_blocked(rules, catalogue, warnings),
        pins=tuple(sorted(pins)),
        category_factors=by_category,
        creator_factors=by_creator,
        warnings=tuple(warnings),
    )


def blocked_numbers(rules: RerankRules, catalogue: Catalogue | LiveCatalogue) -> NDArray[np.int64]:
    """Return the item numbers that are never shown, ascending."""
    return np.flatnonzero(_blocked(rules, catalogue, [])).astype(np.int64, copy=False)


def freshness_of(
    born: NDArray[np.int64], now: int, half_life_days: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the freshness of items, and for which of them it is known.

    Freshness is 2^(-age / half-life): 1 at birth and before it, exactly 1/2 after one half-life,
    and 0 after ten. `born` (n,) and `now` are microseconds since 1970; -1 in `born` is unknown,
    and so is every age when `now` is 0.
    """
    known = (born != -1) & (now != 0)
    lives = np.maximum(now - born, 0) / (half_life_days * DAY_MICROS)
    return np.where(known & (lives <= 10), np.exp2(-lives), 0.0), known


def scale(scores: NDArray[np.float64], factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return scores moved by positive factors: above 1 raises, also where a score is negative."""
    if len(scores) and scores.min() < 0:
        return np.where(scores >= 0, scores * factors, scores / factors)
    return scores * factors


def _blocked(
    rules: RerankRules, catalogue: Catalogue | LiveCatalogue, warnings: list[str]
) -> NDArray[np.bool_]:
    blocked = np.zeros(len(catalogue), np.bool_)
    for _, number in _known_items(rules.block.items, catalogue, "block.items", warnings):
        blocked[number] = True
    if rules.block.categories:
        names = catalogue.category_names
        codes = _known_codes(rules.block.categories, names, "block.categories", warnings)
        blocked |= np.isin(catalogue.category_codes, list(codes.values()))
    if rules.block.creators:
        names = catalogue.creator_names
        codes = _known_codes(rules.block.creators, names, "block.creators", warnings)
        blocked |= np.isin(catalogue.creator_codes, list(codes.values()))
    return blocked


def _more_factors(
    factors: NDArray[np.float64], boosts: Mapping[str, float], names: list[str], known: int
) -> NDArray[np.float64]:
    """Return factors for names after the first `known` too, the last being 1 as before."""
    if len(names) + 1 > len(factors):
        wider = np.ones(room_for(len(names) + 1, len(factors)))
        wider[:known] = factors[:known]
        factors = wider
    for code in range(known, len(names)):
        factors[code] = boosts.get(names[code], 1.0)
    return factors


def _factors(
    boosts: Mapping[str, float], names: list[str], key: str, warnings: list[str]
) -> NDArray[np.float64]:
    factors = np.ones(len(names) + 1)
    for name, code in _known_codes(boosts, names, key, warnings).items():
        factors[code] = boosts[name]
    return factors


def _known_items(
    items: Iterable[str], catalogue: Catalogue | LiveCatalogue, key: str, warnings: list[str]
) -> list[tuple[str, int]]:
    found = []
    for item in items:
        number = catalogue.number_of(item)
        if number is None:
            warnings.append(f"{key}: the catalogue has no item {item!r}")
        else:
            found.append((item, number))
    return found


def _known_codes(
    wanted: Iterable[str], names: list[str], key: str, warnings: list[str]
) -> dict[str, int]:
    rows = {name: row for row, name in enumerate(names)}
    for name in wanted:
        if name not in rows:
            near = difflib.get_close_matches(name, names[:10_000], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            warnings.append(f"{key}: the catalogue has no {name!r}{hint}")
    return {name: rows[name] for name in wanted if name in rows}
