"""A stage's end of its streams: reads numbered batches, answers each as it is done."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from corerec.errors import CoreRecError
from corerec.serving.contracts import StageContract
from corerec.serving.metrics import Metrics
from corerec.serving.status import code_of, entry_status

log = logging.getLogger(__name__)


class StreamServer:
    """Serves the streams of one stage.

    Args:
        answer: returns the response to a batch, or raises what a call would fail with.
    """

    def __init__(
        self,
        contract: StageContract[Any, Any],
        metrics: Metrics,
        answer: Callable[[Any], Awaitable[Any]],
    ) -> None:
        self._contract, self._metrics, self._answer = contract, metrics, answer
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

    async def response(self, number: int, batch: Any) -> Any:
        """Return the message that answers a batch."""
        started, code = time.monotonic(), "OK"
        try:
            return self._contract.stream_response(call=number, batch=await self._answer(batch))
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except Exception as error:
            code = code_of(error).name
            if not isinstance(error, CoreRecError) or code == "INTERNAL":
                log.exception("%s failed", self._contract.stream_path)
            return self._contract.stream_response(call=number, status=entry_status(error))
        finally:
            measured = self._ok_seconds if code == "OK" else self._seconds(code)
            measured.observe(time.monotonic() - started)

    def _seconds(self, code: str) -> Any:
        contract = self._contract
        return self._metrics.rpc_seconds.labels(contract.service, contract.stream_method, code)


class _Stream:
    """One caller's stream."""

    def __init__(self, server: StreamServer, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._server, self._context = server, context
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._writing = asyncio.Lock()  # gRPC takes one message at a time
        self._reading: asyncio.Task[None] | None = None
        self._ending = False

    def end(self) -> None:
        """Read no further."""
        self._ending = True
        if self._reading is not None:
            self._reading.cancel()

    async def run(self) -> None:
        """Read until the caller or this server ends the stream, then finish what was read."""
        self._reading = asyncio.create_task(self._read())
        try:
            await self._reading
        except asyncio.CancelledError:
            if not self._ending:  # the caller is gone
                for call in self._calls.values():
                    call.cancel()
                raise
        await asyncio.gather(*self._calls.values(), return_exceptions=True)

    async def _read(self) -> None:
        while (request := await self._context.read()) is not grpc.aio.EOF:
            if request.HasField("batch"):
                call = asyncio.create_task(self._answer(request.call, request.batch))
                self._calls[request.call] = call
            elif unwanted := self._calls.get(request.call):
                unwanted.cancel()

    async def _answer(self, number: int, batch: Any) -> None:
        try:
            message = await self._server.response(number, batch)
            async with self._writing:
                await self._context.write(message)
        except (grpc.aio.BaseError, asyncio.InvalidStateError):
            pass  # the caller went meanwhile, and learns of it by itself
        finally:
            self._calls.pop(number, None)
