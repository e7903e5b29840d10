"""Those who use a live catalogue at steady rates, and what they see of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.live.services import Services
from corerec.client import AsyncClient, CatalogItem, Predicate
from corerec.errors import CoreRecError
from corerec.serving.budget import Budget
from corerec.serving.contracts import RETRIEVE
from corerec.serving.endpoints import StaticEndpoints
from corerec.serving.metrics import Metrics
from corerec.serving.stage_client import RemoteStage
from corerec.stages import RetrieveEntry, RetrieveResult, UserContext

PROBE_SECONDS = 0.01
LOOK_SECONDS = 1.0
AFTER_DELETE = (0.0, 0.02, 0.1, 0.3)
"""Seconds after the acknowledgement at which a deleted item is looked for by name."""


@dataclass
class Seen:
    """Everything that was measured, by monotonic time."""

    answers: list[tuple[float, float]] = field(default_factory=list)
    """When an answer was asked for, and how long it took."""
    errors: list[str] = field(default_factory=list)
    degraded: int = 0
    upserts: list[tuple[float, float, int]] = field(default_factory=list)
    """When a call was sent and acknowledged, and its position."""
    upserted: int = 0
    last_position: int = 0
    positions: list[tuple[float, int]] = field(default_factory=list)
    """When an answer of every shard came, and the least position of them."""
    delta: list[float] = field(default_factory=list)
    """Rows beside the main indexes, the most of any shard."""
    named: dict[int, list[float]] = field(default_factory=dict)
    """Shard -> seconds from acknowledgement to being found by name on it."""
    deleted: dict[str, float] = field(default_factory=dict)
    """When the delete of an item was acknowledged."""
    items_checked: int = 0
    """Items of answers that were asked for after an acknowledgement of a delete."""
    looked_for: int = 0
    """Times that a deleted item was looked for by name."""
    returned: list[str] = field(default_factory=list)
    """Deleted items that were in an answer that was asked for after the acknowledgement."""


class Callers:
    """The callers of one run. `kept` are the items that each of the last answers named first."""

    def __init__(self, services: Services, client: AsyncClient, release: str) -> None:
        self.seen, self.stop = Seen(), asyncio.Event()
        self._services, self._client, self._release = services, client, release
        self._front: RemoteStage[RetrieveEntry, RetrieveResult] = RemoteStage(
            RETRIEVE, StaticEndpoints([services.address("retrieval")]), Metrics()
        )
        self._shown = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Wait for everything that was begun."""
        self.stop.set()
        await asyncio.gather(*self._tasks)
        await self._front.close()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside the rest."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def ask(self, rate: float) -> None:
        """Ask for recommendations at a steady rate, however long answers take."""
        due, number = time.monotonic(), 0
        while not self.stop.is_set():
            due, number = due + 1 / rate, number + 1
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self.begin(self._ask_once(f"u{number % 2000:06d}"))

    async def _ask_once(self, user: str) -> None:
        started = time.monotonic()
        try:
            answer = await self._client.recommend(user)
        except CoreRecError as error:
            self.seen.errors.append(str(error))
            return
        self.seen.answers.append((started, time.monotonic() - started))
        self.seen.degraded += bool(answer.degraded)
        ids = [item.item_id for item in answer.items]
        self._check(ids, started)
        self._shown = ids[0] if ids else self._shown

    def _check(self, ids: list[str], started: float) -> None:
        """Count deleted items in an answer that was asked for at `started`."""
        gone = self.seen.deleted
        self.seen.items_checked += len(ids) if gone else 0
        self.seen.returned += [one for one in ids if gone.get(one, started) < started]

    async def upsert(self, rate: float, batch: int, seconds: float, like: list[str]) -> None:
        """Upsert so many items a second, `batch` in one call; every tenth call is looked for."""
        end, due, number, followed = time.monotonic() + seconds, time.monotonic(), 0, 0
        while time.monotonic() < end:
            items = [
                CatalogItem(
                    item_id=f"live-{i}",
                    title=f"Live {i}",
                    category=like[i % len(like)],
                    attributes={"mark": f"m{i}"},
                )
                for i in range(number, number + batch)
            ]
            place = -1
            if number // batch % 10 == 0:
                place, followed = followed % batch, followed + 1  # every shard has its turn
            number, due = number + batch, due + batch / rate
            self.begin(self._upsert_once(items, place))
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _upsert_once(self, items: list[CatalogItem], followed: int) -> None:
        sent = time.monotonic()
        stored = await self._client.upsert_items(items)
        acked = time.monotonic()
        self.seen.upserts.append((sent, acked, stored.position))
        self.seen.last_position = max(self.seen.last_position, stored.position)
        self.seen.upserted += len(items)
        if followed >= 0:
            item = items[followed]
            await self._find(item, int(stored.numbers[followed]), acked)
            await self._delete(item.item_id, item.attributes["mark"])

    async def _find(self, item: CatalogItem, number: int, acked: float) -> None:
        """Ask retrieval until the shard that has the item answers with it."""
        where = (Predicate(attribute="mark", any_of=(item.attributes["mark"],)),)
        entry = RetrieveEntry(user=UserContext(), k=1, where=where)
        while time.monotonic() < acked + 10:
            try:
                found = await self._front.call(self._release, entry, Budget(5))
            except CoreRecError:  # no shard knows the attribute yet
                pass
            else:
                if number in found.candidates.numbers:
                    shard = number % self._services.shards
                    took = time.monotonic() - acked
                    self.seen.named.setdefault(shard, []).append(took)
                    return
            await asyncio.sleep(PROBE_SECONDS)
        self.seen.errors.append(f"{item.item_id} was never found")

    async def _delete(self, item_id: str, mark: str) -> None:
        """Delete an item that was found, and one that was shown; look for the first by name."""
        for gone in {item_id, self._shown} - self.seen.deleted.keys() - {""}:
            await self._client.delete_items([gone])
            self.seen.deleted[gone] = time.monotonic()
        where = [Predicate(attribute="mark", any_of=(mark,))]
        for pause in AFTER_DELETE:
            await asyncio.sleep(pause)
            started = time.monotonic()
            answer = await self._client.recommend("", where=where)
            self.seen.looked_for += 1
            self._check([item.item_id for item in answer.items], started)

    async def watch(self) -> None:
        """Note the position of all shards every few milliseconds, and the delta every second."""
        entry, look = RetrieveEntry(user=UserContext(), k=1), 0.0
        while not self.stop.is_set():
            found = await self._front.call(self._release, entry, Budget(5))
            if found.coverage == 1.0:
                self.seen.positions.append((time.monotonic(), found.position))
            if time.monotonic() - look > LOOK_SECONDS:
                look = time.monotonic()
                self.seen.delta.append(await asyncio.to_thread(self._most_pending))
            await asyncio.sleep(PROBE_SECONDS)

    def _most_pending(self) -> float:
        own = self._services
        return max(own.metric(name, "corerec_delta_items") for name in own.searching)


def quantiles(values: list[float], scale: float = 1000.0) -> dict[str, float]:
    """Return count, p50, p95, p99 and the most, in milliseconds."""
    if not values:
        return {"count": 0}
    found = {f"p{q}_ms": float(np.quantile(values, q / 100)) * scale for q in (50, 95, 99)}
    most = {"max_ms": max(values) * scale}
    return {"count": len(values)} | {n: round(v, 2) for n, v in (found | most).items()}
