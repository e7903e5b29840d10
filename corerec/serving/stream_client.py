"""A caller's end of a stage's stream: batches go out numbered, answers come back in any order.

One long call carries every batch to a replica, because a message on a stream that is open costs a
third of a call of its own.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
from grpc.aio import AioRpcError, Metadata

from corerec.serving.contracts import StageContract

log = logging.getLogger(__name__)

_Future = asyncio.Future[Any]
_ENDED = "the server ended the stream; it may be shutting down"


class StreamClient:
    """The stream to one replica: opened with the first batch, and again after it broke.

    Belongs to the event loop. The channel stays its maker's.
    """

    def __init__(self, channel: grpc.aio.Channel, contract: StageContract[Any, Any]) -> None:
        self._contract = contract
        self._open_stream = channel.stream_stream(
            contract.stream_path,  # sends bytes: what cannot be one is known before it is queued
            response_deserializer=contract.stream_response.FromString,
        )
        self._number = 0
        self._lane: _Lane | None = None

    def call(self, batch: Any, timeout: float) -> _Future:
        """Send a batch and return the future of its response; cancelling it tells the server.

        It ends with AioRpcError: of the batch as a whole; DEADLINE_EXCEEDED after `timeout`
        seconds; UNAVAILABLE, or what else the stream ended with, when it broke.
        """
        if self._lane is None or self._lane.ended:
            self._lane = _Lane(self._open_stream(), self._contract)
        self._number += 1
        return self._lane.call(self._number, batch, timeout)

    async def close(self, grace: float | None) -> None:
        """End the stream once its batches are answered, at most `grace` seconds from now."""
        if self._lane is None:
            return
        if self._lane.waits and grace:
            await asyncio.wait(list(self._lane.waits.values()), timeout=grace)
        await self._lane.close()


class _Lane:
    """One stream, from its opening to its end."""

    def __init__(self, stream: Any, contract: StageContract[Any, Any]) -> None:
        self._stream, self._contract = stream, contract
        self._loop = asyncio.get_running_loop()
        self.waits: dict[int, _Future] = {}
        """Batches without an answer, by number."""
        self.ended = False
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue()
        self._tasks = [
            self._loop.create_task(self._write(), name="stage-stream-write"),
            self._loop.create_task(self._read(), name="stage-stream-read"),
        ]

    def call(self, number: int, batch: Any, timeout: float) -> _Future:
        message: bytes = self._contract.stream_request(call=number, batch=batch).SerializeToString()
        future: _Future = self._loop.create_future()
        self.waits[number] = future
        self._outgoing.put_nowait(message)
        timer = self._loop.call_later(timeout, _end, future, grpc.StatusCode.DEADLINE_EXCEEDED)
        future.add_done_callback(lambda done: self._done(number, done, timer))
        return future

    def _done(self, number: int, future: _Future, timer: asyncio.TimerHandle) -> None:
        timer.cancel()
        if self.waits.pop(number, None) is not None and not self.ended:
            # Cancelled or late: whoever computes it may stop.
            unwanted = self._contract.stream_request(call=number)
            self._outgoing.put_nowait(unwanted.SerializeToString())

    async def _write(self) -> None:
        try:
            while True:
                await self._stream.write(await self._outgoing.get())
        except (AioRpcError, asyncio.InvalidStateError):
            pass  # the reader learns the same, and why

    async def _read(self) -> None:
        code, details = grpc.StatusCode.UNAVAILABLE, _ENDED
        try:
            while (response := await self._stream.read()) is not grpc.aio.EOF:
                self._take(response)
        except AioRpcError as error:
            code, details = error.code(), error.details() or ""
        except asyncio.CancelledError:  # closed here, or with the channel
            code, details = grpc.StatusCode.CANCELLED, "the stream was closed"
            raise
        except Exception as error:
            log.exception("a stage's stream broke")
            code, details = grpc.StatusCode.INTERNAL, str(error)
        finally:  # whatever it was, nobody waits on
            self.ended = True
            self._tasks[0].cancel()
            waits, self.waits = self.waits, {}
            for future in waits.values():
                _end(future, code, details)

    def _take(self, response: Any) -> None:
        future = self.waits.pop(response.call, None)
        if future is None or future.done():
            return  # late, or nobody waits for it any more
        if response.status.code:
            code = _CODES.get(response.status.code, grpc.StatusCode.UNKNOWN)
            _end(future, code, response.status.message)
        else:
            future.set_result(response.batch)

    async def close(self) -> None:
        self.ended = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._stream.cancel()


_CODES = {code.value[0]: code for code in grpc.StatusCode}


def _end(future: _Future, code: grpc.StatusCode, details: str = "") -> None:
    if not future.done():
        future.set_exception(AioRpcError(code, Metadata(), Metadata(), details=details))
