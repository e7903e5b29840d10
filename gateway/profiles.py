"""The store as the gateway uses it: many reads become one, and nothing blocks the loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from corerec.errors import CoreRecError, DeadlineExceeded, Unavailable
from corerec.serving.batching import Batcher
from corerec.serving.budget import Budget
from corerec.serving.metrics import Metrics
from corerec.store import Event, Store, UserState
from gateway.feed import READ_CHANGES, Feed, News

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_NOBODY = UserState("", {}, np.empty(0, np.int64), np.empty(0, np.int64), known=False)


@dataclass(frozen=True, slots=True)
class _Read:
    state: UserState
    news: News


class _Reads:
    """Reads of users, and with each batch what changed in the catalogue; "" reads no user."""

    release = ""

    def __init__(self, store: Store, feed: Feed) -> None:
        self._store, self._feed = store, feed

    def check(self, entry: str) -> None:
        pass

    def run(self, entries: Sequence[str]) -> Sequence[_Read | CoreRecError]:
        users = list(dict.fromkeys(entry for entry in entries if entry))
        began, position = time.monotonic(), self._feed.catalogue.position
        try:
            states, changes = self._store.read_users_and_changes(users, position, READ_CHANGES)
        except CoreRecError as error:
            if len(entries) == 1:
                return [error]
            raise  # each alone: one damaged row spares the others
        news, found = News(changes=changes, began=began), dict(zip(users, states, strict=True))
        return [_Read(found.get(entry, _NOBODY), news) for entry in entries]

    def warm(self) -> None:
        self._store.read_users([""])


class _Writes:
    """Appends of events; each call's events are one transaction."""

    release = ""

    def __init__(self, store: Store) -> None:
        self._store = store

    def check(self, entry: Sequence[Event]) -> None:
        pass

    def run(self, entries: Sequence[Sequence[Event]]) -> Sequence[int | CoreRecError]:
        return [self._append(events) for events in entries]

    def _append(self, events: Sequence[Event]) -> int | CoreRecError:
        try:
            return self._store.append_events(events)
        except CoreRecError as error:
            return error

    def warm(self) -> None:
        pass


class Profiles:
    """Users' histories and attributes, the way to append to them, and the catalogue's news."""

    def __init__(self, store: Store, metrics: Metrics, feed: Feed) -> None:
        self.store, self.feed = store, feed
        self._reads: Batcher[str, _Read] = Batcher(
            _Reads(store, feed), stage="profile", metrics=metrics, max_queue=1024, max_batch=64
        )
        self._writes: Batcher[Sequence[Event], int] = Batcher(
            _Writes(store), stage="record", metrics=metrics, max_queue=1024, max_batch=16
        )
        self._tail: asyncio.Task[None] | None = None

    async def read(self, user_id: str, budget: Budget) -> UserState:
        """Return the user's state. Raises Unavailable, DeadlineExceeded or ResourceExhausted."""
        try:
            read = (await self._reads.call(user_id, budget)).result
        except (Unavailable, DeadlineExceeded):
            self.feed.failed()
            raise
        self.feed.take(read.news)
        return read.state

    async def look(self, budget: Budget) -> None:
        """Take in what changed in the catalogue. Raises Unavailable, DeadlineExceeded."""
        if self.feed.just_failed:
            raise Unavailable("the store could not be read a moment ago")
        await self.read("", budget)

    async def catch_up(self, budget: Budget) -> None:
        """Return when the catalogue has everything that the store had a moment ago.

        Raises:
            Unavailable, DeadlineExceeded: the store could not be read, or not in time.
        """
        while self.feed.is_stale:
            await self.look(budget)

    def follow(self) -> None:
        """Look at the store again and again from now on, unless requests do."""
        self._tail = asyncio.create_task(self._follow(), name="gateway-tail")

    async def _follow(self) -> None:
        away = False
        while True:
            every = self.feed.every
            await asyncio.sleep(
                every if self.feed.just_failed else max(0.001, every - self.feed.age)
            )
            while self.feed.age >= self.feed.every:
                position = self.feed.catalogue.position
                try:
                    await self.look(Budget(_LOOK_SECONDS))
                    away = False
                except CoreRecError as error:
                    if not away:  # the first of a row
                        log.warning("cannot follow the catalogue, and tries again: %s", error)
                    away = True
                    break
                if self.feed.catalogue.position == position:
                    break

    async def append(self, events: Sequence[Event], budget: Budget) -> int:
        """Store the events and return how many were new. Durable when this returns."""
        return (await self._writes.call(events, budget)).result

    async def probe(self) -> None:
        """Return when the threads that use the store answer."""
        await self._reads.probe()

    async def close(self) -> None:
        """Finish what waits and close the store."""
        if self._tail is not None:
            self._tail.cancel()
            await asyncio.gather(self._tail, return_exceptions=True)
        await self._reads.close()
        await self._writes.close()
        self.store.close()
