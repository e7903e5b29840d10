"""How new the gateway's catalogue is: it follows the store's changes, so that what was deleted is
in no answer and what is new can be named."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from corerec.live.catalogue import LiveCatalogue
from corerec.rerank import CompiledRules
from corerec.serving.metrics import Metrics
from corerec.store.catalogue import Item, ItemChange

READ_CHANGES = 500
"""Most changes in one read of the store."""


@dataclass(frozen=True, kw_only=True, slots=True)
class News:
    """Changes that one read of the store brought."""

    changes: Sequence[ItemChange]
    began: float
    """When the read began, on this process's monotonic clock."""

    @property
    def whole(self) -> bool:
        """Whether these are all the changes that there were."""
        return len(self.changes) < READ_CHANGES


class Feed:
    """The live catalogue, and since when it may be behind. Belongs to the event loop.

    A delete is acknowledged after `settle` seconds. A gateway whose last look at the store is older
    than `stale` looks again before it answers: every answer that is made after an acknowledgement
    rests on a look that saw the delete.

    Args:
        every: seconds between looks when no request brings one.
        kept: items whose attributes conditions ask for, by number; kept at their newest.
        rules: what may be shown, which goes by the newest ids, categories and creators too.
    """

    def __init__(
        self,
        catalogue: LiveCatalogue,
        metrics: Metrics,
        *,
        every: float,
        kept: dict[int, Item] | None = None,
        rules: CompiledRules | None = None,
    ) -> None:
        self.catalogue, self.every = catalogue, every
        self.settle = 2.0 * every
        """Seconds from a delete to its acknowledgement, in which every gateway looks."""
        self.stale = 1.5 * every
        """Age of the last look from which on an answer needs another."""
        self.kept: dict[int, Item] = {} if kept is None else kept
        self._rules = rules
        self._told: list[Callable[[Sequence[int]], None]] = []
        self._looked = float("-inf")
        self._failed = float("-inf")
        self._errors = metrics.store_errors.labels("gateway")
        self._gauge = metrics.catalogue_position.labels("gateway")
        metrics.catalogue_lag.labels("gateway").set_function(lambda: max(0.0, self.age - every))

    def tell(self, listener: Callable[[Sequence[int]], None]) -> None:
        """Call `listener` with the numbers of items that changed or went, from now on."""
        self._told.append(listener)

    @property
    def age(self) -> float:
        """Seconds since the last look at the store that saw everything."""
        return time.monotonic() - self._looked

    @property
    def is_stale(self) -> bool:
        """Whether an answer needs another look."""
        return self.age > self.stale

    @property
    def just_failed(self) -> bool:
        """Whether the store could not be read a moment ago, so that asking again helps nobody."""
        return time.monotonic() - self._failed < self.every

    def take(self, news: News) -> None:
        """Take in what a read brought; older news than those taken already change nothing."""
        if fresh := [c for c in news.changes if c.position > self.catalogue.position]:
            self._apply(fresh)
        if news.whole:
            self._looked = max(self._looked, news.began)

    def _apply(self, fresh: Sequence[ItemChange]) -> None:
        self.catalogue.apply(fresh)
        if self._rules is not None:
            self._rules.apply(fresh, self.catalogue)
        for change in fresh:
            if change.number in self.kept and change.item is not None:
                self.kept[change.number] = change.item
        self._gauge.set(self.catalogue.position)
        for listener in self._told:
            listener([change.number for change in fresh])

    def failed(self) -> None:
        """Note that the store could not be read."""
        self._failed = time.monotonic()
        self._errors.inc()

    def forget(self, numbers: Sequence[int]) -> None:
        """Leave items out from now on, before the store's change of them is read."""
        deleted = self.catalogue.deleted
        for number in numbers:
            if number < len(deleted):
                deleted[number] = True
        for listener in self._told:
            listener(numbers)
