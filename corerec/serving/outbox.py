"""Messages that wait for a stream: gRPC takes one at a time, and whoever has one does not wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any


class Outbox:
    """Writes messages in the order in which they were put, by one task."""

    def __init__(self, write: Callable[[Any], Awaitable[Any]], *, name: str) -> None:
        self._write = write
        self._loop = asyncio.get_running_loop()
        self._messages: deque[Any] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._last = False
        self.task = self._loop.create_task(self._run(), name=name)
        """Ends after `close`, or with what `write` raises."""

    def put(self, message: Any) -> None:
        """Send a message as soon as those before it are sent."""
        self._messages.append(message)
        self._stir()

    def close(self) -> None:
        """Let the task end once everything is sent."""
        self._last = True
        self._stir()

    def _stir(self) -> None:
        if self._wake is not None:
            self._wake.set_result(None)
            self._wake = None

    async def _run(self) -> None:
        while True:
            while self._messages:
                await self._write(self._messages.popleft())
            if self._last:
                return
            self._wake = self._loop.create_future()
            await self._wake
