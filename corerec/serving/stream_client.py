"""A caller's end of a stage's stream: batches go out numbered, answers come back in any order.

One long call carries every batch to a replica, because a message on a stream that is open costs a
third of a call of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import grpc
from grpc.aio import AioRpcError, Metadata

from corerec.serving.contracts import StageContract
from corerec.serving.outbox import Outbox

log = logging.getLogger(__name__)

Write = Callable[[Any], None]
"""Fills the empty message of a batch."""
Done = Callable[[Any, AioRpcError | None], None]
"""Called once with a batch's response, or with what the batch as a whole ended with."""

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

    def send(self, write: Write, done: Done) -> Sending:
        """Send a batch; `done` is called with its response, unless it is cancelled first.

        `write` fills the batch in its place in the stream's message: a message that is given to
        another is copied. What it raises is raised here, and nothing is sent.
        An error is that of the batch as a whole, or UNAVAILABLE, or what else the stream ended
        with, when it broke. There is no deadline: whoever waits cancels.
        """
        if self._lane is None or self._lane.ended:
            self._lane = _Lane(self._open_stream(), self._contract)
        self._number += 1
        return self._lane.send(self._number, write, done)

    async def close(self, grace: float | None) -> None:
        """End the stream once its batches are answered, at most `grace` seconds from now."""
        if self._lane is not None:
            await self._lane.close(grace)


class Sending:
    """A batch under way."""

    __slots__ = ("_lane", "_number")

    def __init__(self, lane: _Lane, number: int) -> None:
        self._lane, self._number = lane, number

    def cancel(self) -> None:
        """Tell the server that nobody waits; `done` is not called any more."""
        self._lane.cancel(self._number)


class _Lane:
    """One stream, from its opening to its end."""

    def __init__(self, stream: Any, contract: StageContract[Any, Any]) -> None:
        self._stream, self._contract = stream, contract
        self._waits: dict[int, Done] = {}  # by batches without an answer
        self._empty: asyncio.Future[None] | None = None
        self.ended = False
        self._outbox = Outbox(self._write, name="stage-stream-write")
        self._reading = asyncio.create_task(self._read(), name="stage-stream-read")

    def send(self, number: int, write: Write, done: Done) -> Sending:
        message = self._contract.stream_request(call=number)
        write(message.batch)
        raw = message.SerializeToString()
        self._waits[number] = done
        self._outbox.put(raw)
        return Sending(self, number)

    def cancel(self, number: int) -> None:
        if self._waits.pop(number, None) is not None and not self.ended:
            self._outbox.put(self._contract.stream_request(call=number).SerializeToString())
            self._left()

    async def _write(self, message: bytes) -> None:
        with suppress(AioRpcError, asyncio.InvalidStateError):  # the reader learns why
            await self._stream.write(message)

    async def _read(self) -> None:
        code, details = grpc.StatusCode.UNAVAILABLE, _ENDED
        try:
            while (response := await self._stream.read()) is not grpc.aio.EOF:
                self._take(response)
        except AioRpcError as error:
            code, details = error.code(), error.details() or ""
            if code is grpc.StatusCode.INTERNAL:
                # grpc.aio says so of a stream that ended while it was being written to. What a
                # batch failed with comes in a message.
                code = grpc.StatusCode.UNAVAILABLE
        except asyncio.CancelledError:  # closed here, or with the channel
            code, details = grpc.StatusCode.CANCELLED, "the stream was closed"
            raise
        except Exception as error:
            log.exception("a stage's stream broke")
            code, details = grpc.StatusCode.INTERNAL, str(error)
        finally:  # whatever it was, nobody waits on
            self.ended = True
            self._outbox.task.cancel()
            waits, self._waits = self._waits, {}
            for done in waits.values():
                done(None, _error(code, details))
            self._left()

    def _take(self, response: Any) -> None:
        done = self._waits.pop(response.call, None)
        if done is None:
            return  # nobody waits for it any more
        if response.status.code:
            code = _CODES.get(response.status.code, grpc.StatusCode.UNKNOWN)
            done(None, _error(code, response.status.message))
        else:
            done(response.batch, None)
        self._left()

    def _left(self) -> None:
        if self._empty is not None and not self._waits and not self._empty.done():
            self._empty.set_result(None)

    async def close(self, grace: float | None) -> None:
        if self._waits and grace:
            self._empty = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._empty], timeout=grace)
        self.ended = True
        tasks = [self._outbox.task, self._reading]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._stream.cancel()


_CODES = {code.value[0]: code for code in grpc.StatusCode}


def _error(code: grpc.StatusCode, details: str) -> AioRpcError:
    return AioRpcError(code, Metadata(), Metadata(), details=details)
