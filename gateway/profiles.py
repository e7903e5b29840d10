"""The store as the gateway uses it: many reads become one, and nothing blocks the loop."""

from __future__ import annotations

from collections.abc import Sequence

from corerec.errors import CoreRecError
from corerec.serving.batching import Batcher
from corerec.serving.budget import Budget
from corerec.serving.metrics import Metrics
from corerec.store import Event, Store, UserState


class _Reads:
    """Reads of users, as a core that the batcher can run."""

    release = ""

    def __init__(self, store: Store) -> None:
        self._store = store

    def check(self, entry: str) -> None:
        pass

    def run(self, entries: Sequence[str]) -> Sequence[UserState | CoreRecError]:
        return self._store.read_users(entries)

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
    """Users' histories and attributes, and the way to append to them."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._reads: Batcher[str, UserState] = Batcher(
            _Reads(store), stage="profile", metrics=metrics, max_queue=1024, max_batch=64
        )
        self._writes: Batcher[Sequence[Event], int] = Batcher(
            _Writes(store), stage="record", metrics=metrics, max_queue=1024, max_batch=16
        )

    async def read(self, user_id: str, budget: Budget) -> UserState:
        """Return the user's state. Raises Unavailable, DeadlineExceeded or ResourceExhausted."""
        return (await self._reads.call(user_id, budget)).result

    async def append(self, events: Sequence[Event], budget: Budget) -> int:
        """Store the events and return how many were new. Durable when this returns."""
        return (await self._writes.call(events, budget)).result

    async def probe(self) -> None:
        """Return when the threads that use the store answer."""
        await self._reads.probe()

    async def close(self) -> None:
        """Finish what waits and close the store."""
        await self._reads.close()
        await self._writes.close()
        self._store.close()
