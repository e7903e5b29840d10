"""RerankCore: applies the declared rules to ranked lists. It knows no proto, RPC or deadline.

The order is fixed: block list, pins, freshness, boosts, diversity and caps while the list is
filled, cut to k.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corerec.errors import CoreRecError, InvalidArgument
from corerec.live.arrays import Growing
from corerec.live.catalogue import LiveCatalogue
from corerec.live.snapshot import read_snapshot
from corerec.release import Catalogue, Release
from corerec.rerank.applying import Applied, apply
from corerec.rerank.check import check_entry
from corerec.rerank.choosing import BY_SCORE, DPP, MMR, Floats
from corerec.rerank.compiled import DAY_MICROS, CompiledRules, compile_rules
from corerec.rerank.record import Outcome, Recorder
from corerec.rerank.rules import RerankRules, load_rules
from corerec.rerank.vectors import VECTORS, Encode, encoder_of, read_vectors
from corerec.stages import (
    Candidates,
    Int64s,
    RerankEntry,
    RerankResult,
    Source,
)
from corerec.store.catalogue import ItemChange

AHEAD = 1_000_000
"""Retrieval may know so many items more than were applied here: they are reranked without names."""


class RerankCore:
    """The rules of one release. Make one with `RerankCore.load`."""

    def __init__(
        self,
        *,
        release: str,
        catalogue: Catalogue,
        vectors: NDArray[np.float32] | None,
        rules: RerankRules,
        data_end_micros: int = 0,
        encode: Encode | None = None,
    ) -> None:
        """Hold a catalogue of N items and their L2-normalised vectors (N, D).

        `vectors` may be None when the rules' diversity is off. `data_end_micros` is the moment
        that an entry with `now` 0 is for; 0 there too leaves every freshness unknown. `encode`
        gives the vectors of items that change; without it they are unlike everything.

        Raises:
            ConfigError: a rule is out of its range.
            InvalidArgument: the vectors do not fit the catalogue.
        """
        needs_vectors = rules.diversity.on
        if needs_vectors and (vectors is None or len(vectors) != len(catalogue)):
            rows = "none" if vectors is None else len(vectors)
            raise InvalidArgument(f"vectors must have {len(catalogue)} rows, got {rows}")
        self._release = release
        self._catalogue = LiveCatalogue(catalogue)
        self._vectors = Growing(vectors) if needs_vectors and vectors is not None else None
        self._encode = encode
        self._compiled = compile_rules(rules, self._catalogue)
        self._recorder = Recorder(self._catalogue, self._compiled)
        self._data_end = data_end_micros
        self._settings = _settings(rules)
        self._columns = self._take_columns()

    @classmethod
    def load(cls, release: Release, *, rules: RerankRules | None = None) -> RerankCore:
        """Return the core of a release, with the release's own rules unless others are given.

        Raises:
            ConfigError: naming file, line, key, rule and value.
            ReleaseError: the item vectors are missing or not as they must be.
        """
        rules = load_rules(release.rules_path) if rules is None else rules
        vectors = encode = None
        if rules.diversity.on:
            vectors = read_vectors(release.file(VECTORS), len(release.catalogue))
            encode = encoder_of(release, vectors.shape[1])
        # Where the data has an order but no times, its end is a count, not a moment.
        has_times = bool(release.info.get("has_times", True))
        core = cls(
            release=release.id,
            catalogue=release.catalogue,
            vectors=vectors,
            rules=rules,
            data_end_micros=int(release.info.get("data_end_micros") or 0) if has_times else 0,
            encode=encode,
        )
        for changes in read_snapshot(release):
            core.apply(changes)
        return core

    @property
    def release(self) -> str:
        """Id of the release that this core holds."""
        return self._release

    @property
    def position(self) -> int:
        """Position of the newest change of the catalogue that was applied, 0 before any."""
        return self._catalogue.position

    def apply(self, changes: Sequence[ItemChange]) -> None:
        """Take changes of the catalogue, in the order of their positions with none left out.

        Deleted items are dropped from then on. Rules that name an item, a category or a creator
        which comes alive hold from then on.
        """
        fresh = [change for change in changes if change.position > self.position]
        self._catalogue.apply(fresh)
        self._compiled.apply(fresh, self._catalogue)
        if self._vectors is not None:
            self._vectors.grow(len(self._catalogue))
            items = {change.number: change.item for change in fresh if change.item is not None}
            if self._encode is not None and items:
                numbers, vectors = self._encode(items)
                self._vectors.values[numbers] = vectors
        self._columns = self._take_columns()

    @property
    def rules(self) -> RerankRules:
        """The rules that are applied."""
        return self._compiled.rules

    @property
    def compiled(self) -> CompiledRules:
        """The rules resolved against the catalogue."""
        return self._compiled

    @property
    def warnings(self) -> tuple[str, ...]:
        """Names in the rules that the catalogue does not have."""
        return self._compiled.warnings

    def check(self, entry: RerankEntry) -> None:
        """Raise InvalidArgument unless k, columns, item numbers and scores obey their rules."""
        check_entry(entry, len(self._catalogue) + AHEAD)

    def run(self, entries: Sequence[RerankEntry]) -> list[RerankResult | CoreRecError]:
        """Rerank a batch. A bad entry gives an error in its place, its neighbours a result."""
        results: list[RerankResult | CoreRecError] = []
        for entry in entries:
            try:
                results.append(self._rerank(entry))
            except CoreRecError as error:
                results.append(error)
        return results

    def warm(self) -> None:
        """Run a typical batch, so that the catalogue's columns are built before the first one."""
        n = min(100, len(self._catalogue))
        candidates = Candidates(
            numbers=np.arange(n, dtype=np.int64),
            scores=np.linspace(1, 0, n, dtype=np.float32),
            sources=np.full(n, Source.TWO_TOWER, np.uint8),
        )
        for explain in (False, True):
            self.run([RerankEntry(candidates=candidates, k=10, explain=explain)])

    def _reach(self, count: int) -> None:
        """Have rows for numbers that were not applied yet: nothing is known of these items."""
        if count > len(self._catalogue):
            self._catalogue.reach(count)
            self._compiled.reach(count)
            if self._vectors is not None:
                self._vectors.grow(count)
            self._columns = self._take_columns()

    def _take_columns(self) -> tuple[Any, ...]:
        """Return the columns over the catalogue that `apply` takes; they move when they grow."""
        compiled, catalogue = self._compiled, self._catalogue
        return (
            compiled.blocked,
            catalogue.deleted,
            catalogue.born_micros,
            catalogue.category_codes,
            catalogue.creator_codes,
            compiled.category_factors,
            compiled.creator_factors,
            np.zeros((0, 0), np.float32) if self._vectors is None else self._vectors.values,
        )

    def _rerank(self, entry: RerankEntry) -> RerankResult:
        begin = time.perf_counter_ns()
        numbers, ranked, largest = check_entry(entry, len(self._catalogue) + AHEAD)
        self._reach(largest + 1)
        pins, now = self._live_pins(), entry.now or self._data_end
        pinned = tuple(pin for pin in pins if pin[0] <= entry.k)
        applied = self._apply(numbers, ranked, pins, len(pinned), entry.k - len(pinned), now)
        ruled = time.perf_counter_ns()
        outcome = Outcome(
            candidates=entry.candidates,
            now=now,
            k=entry.k,
            applied=applied,
            pins=pins,
            pinned=pinned,
        )
        return RerankResult(
            items=self._recorder.items(outcome),
            removed=self._recorder.removed(outcome) if entry.explain else (),
            timings={
                "rules": (ruled - begin) // 1000,
                "record": (time.perf_counter_ns() - ruled) // 1000,
            },
        )

    def _live_pins(self) -> tuple[tuple[int, int], ...]:
        """Return the (position, item number) of the pins that may be shown, by position."""
        blocked, deleted = self._compiled.blocked, self._catalogue.deleted
        return tuple(pin for pin in self._compiled.pins if not (blocked[pin[1]] or deleted[pin[1]]))

    def _apply(
        self,
        numbers: Int64s,
        ranked: Floats,
        pins: Sequence[tuple[int, int]],
        pinned: int,
        places: int,
        now: int,
    ) -> Applied:
        """Apply all rules, in their order, and fill `places` beside the first `pinned` pins."""
        own = np.array([number for _, number in pins], np.int64) if pins else _NO_PINS
        return Applied(
            *apply(numbers, ranked, own, pinned, places, now, *self._columns, *self._settings)
        )


def _settings(rules: RerankRules) -> tuple[Any, ...]:
    """Return the rules' numbers as `apply` takes them."""
    freshness, diversity, caps = rules.freshness, rules.diversity, rules.caps
    return (
        float(freshness.weight),
        float(freshness.half_life_days * DAY_MICROS),
        caps.per_category,
        caps.per_creator,
        _METHODS[diversity.method] if diversity.on else BY_SCORE,
        float(diversity.weight),
        caps.relax_caps,
    )


_NO_PINS = np.empty(0, np.int64)
_METHODS = {"mmr": MMR, "dpp": DPP}
