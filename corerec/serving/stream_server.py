"""A stage's end of its streams: reads numbered batches, answers each as it is done."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import grpc

from corerec.errors import CoreRecError
from corerec.serving.contracts import StageContract
from corerec.serving.metrics import Metrics
from corerec.serving.outbox import Outbox
from corerec.serving.status import code_of, entry_status

log = logging.getLogger(__name__)

Outcomes = Sequence[asyncio.Future[Any] | CoreRecError]
"""Of a batch's entries: what each will end with, or why it was not begun."""


class StreamServer:
    """Serves the streams of one stage.

    Args:
        begin: begins a batch, or raises what a call would fail with.
        respond: fills an empty response once every future of the outcomes is done.
    """

    def __init__(
        self,
        contract: StageContract[Any, Any],
        metrics: Metrics,
        *,
        begin: Callable[[Any], Outcomes],
        respond: Callable[[Any, Outcomes], None],
    ) -> None:
        self._contract, self._metrics = contract, metrics
        self._begin, self._respond = begin, respond
        self._ok_seconds = self._seconds("OK")
        self._streams: set[_Stream] = set()
        self._ending = False

    async def serve(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Answer the batches of a stream until its caller, or this server, ends it."""
        stream = _Stream(self, context)
        if self._ending:
            return
        self._streams.add(stream)
        try:
            await stream.run()
        finally:
            self._streams.discard(stream)

    def end(self) -> None:
        """Read no further batch; every stream ends when what was read is answered."""
        self._ending = True
        for stream in self._streams:
            stream.end()

    def begin(self, batch: Any) -> Outcomes | Exception:
        """Return the batch's outcomes, or what it failed with as a whole."""
        try:
            return self._begin(batch)
        except Exception as error:
            return error

    def message(self, call: _Call) -> Any:
        """Return the message that answers a batch whose outcomes are known."""
        outcomes = call.outcomes
        if not isinstance(outcomes, Exception):
            try:
                message = self._contract.stream_response(call=call.number)
                self._respond(message.batch, outcomes)
                self.count(call, "OK")
                return message
            except Exception as error:
                outcomes = error
        code = code_of(outcomes).name
        if not isinstance(outcomes, CoreRecError) or code == "INTERNAL":
            log.error("%s failed", self._contract.stream_path, exc_info=outcomes)
        self.count(call, code)
        return self._contract.stream_response(call=call.number, status=entry_status(outcomes))

    def count(self, call: _Call, code: str) -> None:
        """Count a batch that ended."""
        measured = self._ok_seconds if code == "OK" else self._seconds(code)
        measured.observe(time.monotonic() - call.started)

    def _seconds(self, code: str) -> Any:
        contract = self._contract
        return self._metrics.rpc_seconds.labels(contract.service, contract.stream_method, code)


class _Call:
    """One batch that was read. Callbacks instead of a task: with few entries a task is the dearer
    part of answering them."""

    __slots__ = ("done", "number", "outcomes", "started")

    def __init__(self, number: int, done: Callable[[_Call], None]) -> None:
        self.number, self.done, self.started = number, done, time.monotonic()
        self.outcomes: Outcomes | Exception = ()

    def look(self, _: object = None) -> None:
        """Say that it is done, now or when the last entry is."""
        if not isinstance(self.outcomes, Exception):
            for outcome in reversed(self.outcomes):  # entries of a batch mostly end in turn
                if isinstance(outcome, asyncio.Future) and not outcome.done():
                    outcome.add_done_callback(self.look)
                    return
        self.done(self)

    def cancel(self) -> None:
        """Compute no entry that has not been begun."""
        if not isinstance(self.outcomes, Exception):
            for outcome in self.outcomes:
                if isinstance(outcome, asyncio.Future):
                    outcome.cancel()


class _Stream:
    """One caller's stream."""

    def __init__(self, server: StreamServer, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._server, self._context = server, context
        self._calls: dict[int, _Call] = {}
        self._outbox = Outbox(self._send, name="stage-stream-write")
        self._reading: asyncio.Task[None] | None = None
        self._ending = self._read_all = False

    def end(self) -> None:
        """Read no further."""
        self._ending = True
        if self._reading is not None:
            self._reading.cancel()

    async def run(self) -> None:
        """Read until the caller or this server ends the stream, then finish what was read."""
        self._reading = asyncio.create_task(self._read(), name="stage-stream-read")
        try:
            try:
                await self._reading
            except asyncio.CancelledError:
                if not self._ending:  # the caller is gone
                    raise
            self._read_all = True
            if not self._calls:
                self._outbox.close()
            await self._outbox.task
        finally:
            self._reading.cancel()
            self._outbox.task.cancel()
            calls, self._calls = self._calls, {}
            for call in calls.values():
                self._drop(call)

    async def _read(self) -> None:
        while (request := await self._context.read()) is not grpc.aio.EOF:
            number = request.call
            if request.HasField("batch"):
                call = self._calls[number] = _Call(number, self._done)
                call.outcomes = self._server.begin(request.batch)
                call.look()
            elif (unwanted := self._calls.pop(number, None)) is not None:
                self._drop(unwanted)

    def _drop(self, call: _Call) -> None:
        self._server.count(call, "CANCELLED")
        call.cancel()

    def _done(self, call: _Call) -> None:
        if self._calls.pop(call.number, None) is None:  # nobody wants it any more
            return
        self._outbox.put(self._server.message(call))
        if self._read_all and not self._calls:
            self._outbox.close()

    async def _send(self, message: Any) -> None:
        # A caller who went meanwhile learns of it by itself.
        with suppress(grpc.aio.BaseError, asyncio.InvalidStateError):
            await self._context.write(message)
