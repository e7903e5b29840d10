"""Keeps one replica's core in step with the store's catalogue while it serves.

The store is read in a thread of its own; the core changes only on its batcher's thread, between
batches and a little at a time, so that no answer waits long for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from corerec.errors import CoreRecError, Unavailable
from corerec.serving.batching import Batcher
from corerec.serving.config import StageConfig
from corerec.serving.metrics import Metrics
from corerec.store import Store, open_store
from corerec.store.catalogue import ItemChange

log = logging.getLogger(__name__)

T = TypeVar("T")

_READ_STARTING = 1000  # changes in one read of the store and in one turn on the core's thread
_READ_SERVING = 256  # a read holds the interpreter while it parses them
_APPLY_SERVING = 32  # in one turn, which takes little longer than one of a single change does
_REST_SECONDS = 0.004  # between two turns or steps: a batch that comes seldom finds one under way
_READ_EVENTS = 10_000
_RETRY_SECONDS = 0.5


@runtime_checkable
class LiveCore(Protocol):
    """A core whose items come and go. All of it runs on one thread at a time."""

    @property
    def position(self) -> int:
        """Position of the newest change that is applied."""
        ...

    def apply(self, changes: Sequence[ItemChange]) -> None:
        """Take changes, in the order of their positions. A bad one is logged and skipped."""
        ...


class Tailer:
    """Follows the store for the core of one batcher.

    Args:
        every: seconds between looks at the store; how late a change is applied at most, nearly.
    """

    def __init__(
        self,
        batcher: Batcher[Any, Any],
        store: Store,
        metrics: Metrics,
        *,
        stage: str,
        every: float,
    ) -> None:
        self._batcher, self._store, self._every = batcher, store, every
        core = batcher.core
        self._core: Any = core
        self._position = core.position if isinstance(core, LiveCore) else 0
        self._maintain: Callable[[], bool] | None = getattr(core, "maintain", None)
        self._add_events: Callable[[NDArray[np.int64]], None] | None
        self._add_events = getattr(core, "add_events", None)
        self._events_seen = 0
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"{stage}-tail")
        self._task: asyncio.Task[None] | None = None
        self._stage, self._current, self._away = stage, time.monotonic(), False
        self._errors = metrics.store_errors.labels(stage)
        self._gauge = metrics.catalogue_position.labels(stage)
        self._gauge.set(self._position)
        # Asked at each scrape: a replica whose loop hangs shows it too.
        metrics.catalogue_lag.labels(stage).set_function(lambda: self.lag)

    @property
    def position(self) -> int:
        """Position of the newest change that the core has."""
        return self._position

    @property
    def lag(self) -> float:
        """Seconds since the core was last known to have everything that the store had."""
        return max(0.0, time.monotonic() - self._current - self._every)

    async def catch_up(self) -> None:
        """Return when the core has everything; waits for a store that cannot be read."""
        while True:
            try:
                while not await self._step(_READ_STARTING, _READ_STARTING):
                    pass
                await self._maintain_all()
                return
            except CoreRecError as error:
                self._failed(error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _maintain_all(self) -> None:
        maintain = self._maintain
        try:
            while maintain is not None and await self._batcher.on_thread(maintain):
                pass
        except Exception:  # what is not merged is found all the same
            log.exception("%s cannot do its upkeep", self._stage)
            self._errors.inc()

    def start(self) -> None:
        """Follow from now on."""
        self._task = asyncio.create_task(self._follow(), name=f"{self._stage}-tail")

    async def _follow(self) -> None:
        while True:
            started = time.monotonic()
            try:
                current = await self._step(_READ_SERVING, _APPLY_SERVING, _REST_SECONDS)
                # Whoever is behind reads on after one step: the core bounds what waits by itself.
                await self._maintain_until(started + self._every if current else started)
                self._away = False
            except Exception as error:  # the replica answers on with what it has, and says so
                self._failed(error)
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if current:
                await asyncio.sleep(max(0.0, started + self._every - time.monotonic()))

    async def _step(self, read: int, chunk: int, rest: float = 0.0) -> bool:
        """Take one read's worth of what is new, in turns; returns whether that was all of it."""
        began = time.monotonic()
        changes = await self._read(lambda: self._store.changes(self._position, read))
        for start in range(0, len(changes), chunk):
            if start and rest:
                await asyncio.sleep(rest)
            part = changes[start : start + chunk]
            await self._batcher.on_thread(partial(self._core.apply, part))
            self._position = part[-1].position
            self._gauge.set(self._position)
        more = await self._take_events()
        current = len(changes) < read and not more
        if current:
            self._current = began
        return current

    async def _take_events(self) -> bool:
        """Give the core the events that it wants; returns whether there are more."""
        add = self._add_events
        if add is None:
            return False
        seen, events = await self._read(
            lambda: self._store.events_after(self._events_seen, _READ_EVENTS)
        )
        if len(events):
            await self._batcher.on_thread(lambda: add(events))
        self._events_seen = seen
        return len(events) >= _READ_EVENTS

    async def _maintain_until(self, due: float) -> None:
        """Do the core's upkeep in small steps, with room for batches between any two."""
        maintain = self._maintain
        while maintain is not None:
            more = await self._batcher.on_thread(maintain)
            if not more or time.monotonic() >= due:
                return
            await asyncio.sleep(_REST_SECONDS)

    async def _read(self, read: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, read)

    def _failed(self, error: Exception) -> None:
        """Count every failure; log the first of a row."""
        self._errors.inc()
        if not self._away:
            known = isinstance(error, CoreRecError)
            text = "%s cannot follow the catalogue, and tries again: %s"
            log.warning(text, self._stage, error, exc_info=None if known else error)
        self._away = True

    async def close(self) -> None:
        """Stop following, and let the store go."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._executor.shutdown(wait=True)
        self._store.close()


async def follow(
    batcher: Batcher[Any, Any], config: StageConfig, metrics: Metrics, *, stage: str
) -> Tailer | None:
    """Return a tailer that has caught up and follows; None without a store or a live core.

    Waits for a store that cannot be opened or read: a replica that serves has what was
    acknowledged before.
    """
    live = isinstance(batcher.core, LiveCore)
    if not config.store or not live:
        return None
    while True:
        try:
            store = await asyncio.to_thread(open_store, config.store)
            break
        except Unavailable as error:
            metrics.store_errors.labels(stage).inc()
            log.warning("%s cannot open the store: %s", stage, error)
            await asyncio.sleep(_RETRY_SECONDS)
    tailer = Tailer(batcher, store, metrics, stage=stage, every=config.tail_ms / 1000)
    await tailer.catch_up()
    tailer.start()
    return tailer
