"""Answers to identical anonymous requests, kept for seconds: a hit asks no stage.

Off unless the configuration says so. Not for users: what one has seen changes with each event.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from corerec.errors import CoreRecError
from corerec.serving.budget import Budget
from corerec.v1 import recommender_pb2
from gateway.profiles import Profiles

Request = recommender_pb2.RecommendRequest
Response = recommender_pb2.RecommendResponse

_WAIT_SHARE = 0.5
"""Share of its time that a request waits for one that asks the same; then it goes its own way."""


class _Kept(NamedTuple):
    answer: Response
    """Without what belongs to one request: its id, its times and what its stages did."""
    made: float


class AnswerCache:
    """Answers by request. Belongs to the event loop, and to one funnel: one release and its rules.

    An answer is kept when nothing was missing from it, until an item of it changes or goes: what
    was deleted is in no answer after the acknowledgement, kept or not. Requests that ask the same
    while the first is under way wait for its answer.
    """

    def __init__(
        self,
        profiles: Profiles,
        *,
        seconds: float,
        most: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep at most `most` answers, each for `seconds`; 0 seconds keep none."""
        self._profiles, self._seconds, self._most, self._clock = profiles, seconds, most, clock
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()  # oldest first
        self._of_item: dict[int, set[bytes]] = {}
        self._flights: dict[bytes, asyncio.Future[None]] = {}
        self.hits = 0
        """Requests that were answered with a kept answer."""
        self.misses = 0
        """Requests that could have been, and were not."""
        profiles.feed.tell(self.drop)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def counts(self) -> dict[str, int]:
        """How often an answer was a kept one, for the metrics."""
        return {"response_hits": self.hits, "response_misses": self.misses}

    def key(self, request: Request) -> bytes | None:
        """Return what identical requests have in common; None where no answer is kept."""
        if not self._seconds or request.user_id:
            return None
        told = request.SerializeToString(deterministic=True)
        return hashlib.blake2b(told, digest_size=16).digest()

    async def answer(
        self, key: bytes, budget: Budget, make: Callable[[], Awaitable[Response]]
    ) -> Response:
        """Return a copy of the kept answer, or what `make` makes, which is kept if it is whole."""
        kept = await self._find(key, budget)
        if kept is None and (flight := self._flights.get(key)) is not None:
            await asyncio.wait((flight,), timeout=max(0.0, _WAIT_SHARE * budget.remaining))
            kept = await self._find(key, budget)
        if kept is not None:
            self.hits += 1
            found = Response()
            found.CopyFrom(kept)
            return found
        self.misses += 1
        if key in self._flights:
            return await make()
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        try:
            answer = await make()
            if not answer.degraded:
                self._put(key, answer)
            return answer
        finally:
            del self._flights[key]
            flight.set_result(None)

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget the answers that hold one of these items: they changed or went."""
        for number in numbers:
            for key in list(self._of_item.get(number, ())):
                self._remove(key)

    async def _find(self, key: bytes, budget: Budget) -> Response | None:
        """Return a kept answer that is young enough and has no item that was deleted since."""
        kept = self._kept.get(key)
        if kept is None or self._clock() - kept.made >= self._seconds:
            return None
        if self._profiles.feed.is_stale:
            try:
                await self._profiles.catch_up(budget.share(_WAIT_SHARE))
            except CoreRecError:
                return None  # the funnel answers then, and says what is missing
            kept = self._kept.get(key)  # what the look brought may have dropped it
        return None if kept is None else kept.answer

    def _put(self, key: bytes, answer: Response) -> None:
        now = self._clock()
        self._remove(key)
        while self._kept:
            oldest, kept = next(iter(self._kept.items()))
            if len(self._kept) < self._most and now - kept.made < self._seconds:
                break
            self._remove(oldest)
        own = Response()
        own.CopyFrom(answer)
        for name in ("request_id", "stages", "latency_micros"):
            own.ClearField(name)
        self._kept[key] = _Kept(own, now)
        for item in own.items:
            self._of_item.setdefault(item.item_number, set()).add(key)

    def _remove(self, key: bytes) -> None:
        kept = self._kept.pop(key, None)
        if kept is None:
            return
        for item in kept.answer.items:
            keys = self._of_item[item.item_number]
            keys.discard(key)
            if not keys:
                del self._of_item[item.item_number]
