"""A stage's stream between real servers: numbered batches, failures of one and of all, its end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest

from corerec.serving.contracts import RANK
from corerec.serving.stream_client import StreamClient
from corerec.stages import RankEntry, Source, UserContext
from corerec.v1 import ranking_pb2, ranking_pb2_grpc
from tests.serving.fakes import RELEASE, Faults, columns, start_fake_stage


def batch(name: str, release: str = RELEASE, k: int = 3) -> Any:
    candidates = columns(np.arange(10, dtype=np.int64), Source.TWO_TOWER)
    entry = RankEntry(request_id=name, user=UserContext(), candidates=candidates, k=k)
    return RANK.request(release=release, entries=[RANK.entry_to_proto(entry, 5_000_000)])


@asynccontextmanager
async def ranking(faults: Faults) -> AsyncIterator[tuple[StreamClient, Any, grpc.aio.Channel]]:
    server = await start_fake_stage("ranking", faults)
    channel = grpc.aio.insecure_channel(server.address)
    client = StreamClient(channel, RANK)
    try:
        yield client, server, channel
    finally:
        if faults.hold:
            faults.hold.set()
        await client.close(None)
        await channel.close()
        await server.drain()


class Asked(asyncio.Future):
    """What a batch ends with; cancelling it tells the server."""

    def __init__(self, client: StreamClient, batch: Any) -> None:
        super().__init__()
        self.sending = client.send(lambda message: message.CopyFrom(batch), self.done_with)

    def done_with(self, response: Any, error: grpc.aio.AioRpcError | None) -> None:
        if error is None:
            self.set_result(response)
        else:
            self.set_exception(error)

    def cancel(self, msg: Any = None) -> bool:
        self.sending.cancel()
        return super().cancel(msg)


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_stream_answers_what_a_call_does() -> None:
    async with ranking(Faults()) as (client, _, channel):
        called = await ranking_pb2_grpc.RankingServiceStub(channel).Rank(batch("a"), timeout=5)
        streamed = await Asked(client, batch("a"))
        assert len(called.results) == len(streamed.results) == 1
        for response in (called, streamed):
            del response.results[0].timings[:]
        assert called == streamed
        assert isinstance(called, ranking_pb2.RankResponse)


async def test_what_fails_a_whole_batch_leaves_its_neighbours_and_the_stream() -> None:
    async with ranking(Faults()) as (client, _, _):
        calls = [
            Asked(client, batch("good")),
            Asked(client, batch("other release", release="other")),
            Asked(client, RANK.request(release=RELEASE)),
            Asked(client, batch("bad entry", k=0)),
            Asked(client, batch("good too")),
        ]
        good, other, empty, bad, last = await asyncio.gather(*calls, return_exceptions=True)
        assert good.results[0].status.code == last.results[0].status.code == 0
        assert bad.results[0].status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert other.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert RELEASE in other.details()
        assert empty.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (await Asked(client, batch("after"))).results[0].status.code == 0


async def test_what_nobody_waits_for_is_not_computed() -> None:
    faults = Faults(hold=threading.Event())
    async with ranking(faults) as (client, _, _):
        held = Asked(client, batch("held"))
        await until(lambda: faults.batches)
        left, kept = Asked(client, batch("left")), Asked(client, batch("kept"))
        await asyncio.sleep(0.05)
        left.cancel()
        await asyncio.sleep(0.05)  # the server hears of it
        assert faults.hold is not None
        faults.hold.set()
        assert (await held).results[0].status.code == 0
        assert (await kept).results[0].status.code == 0
        assert faults.batches == [["held"], ["kept"]]
        assert left.cancelled()  # and no answer came for it


async def test_a_server_that_drains_answers_what_it_read_and_then_ends_the_stream() -> None:
    faults = Faults(hold=threading.Event())
    async with ranking(faults) as (client, server, _):
        held = Asked(client, batch("held"))
        await until(lambda: faults.batches)
        draining = asyncio.ensure_future(server.drain())
        await asyncio.sleep(0.3)
        assert not held.done()
        assert faults.hold is not None
        faults.hold.set()
        assert (await held).results[0].status.code == 0
        async with asyncio.timeout(3):  # and not only when its callers are gone
            await draining
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await Asked(client, batch("after"))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_stream_that_breaks_ends_all_its_batches_and_the_next_opens_another() -> None:
    faults = Faults(hold=threading.Event())
    async with ranking(faults) as (client, _, _):
        held = [Asked(client, batch(name)) for name in "abc"]
        await until(lambda: faults.batches)
        lane = client._lane
        assert lane is not None
        lane._stream.cancel()
        codes = {
            error.code()
            for error in await asyncio.gather(*held, return_exceptions=True)
            if isinstance(error, grpc.aio.AioRpcError)
        }
        assert codes == {grpc.StatusCode.CANCELLED}
        assert faults.hold is not None
        faults.hold.set()
        assert (await Asked(client, batch("after"))).results[0].status.code == 0


class EndedInWrite:
    """A stream of grpc.aio that the server ended while it was being written to."""

    def __init__(self) -> None:
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def write(self, message: bytes) -> None:
        self.failed.set_result(None)
        await self.read()

    async def read(self) -> Any:
        await self.failed
        metadata, details = grpc.aio.Metadata(), "Internal error from Core"
        raise grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, metadata, metadata, details)

    def cancel(self) -> None:
        """Hold nothing."""


async def test_a_stream_that_ends_while_it_is_written_to_is_no_fault_of_its_batches() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        client = StreamClient(channel, RANK)
        client._open_stream = EndedInWrite  # type: ignore[assignment]
        with pytest.raises(grpc.aio.AioRpcError, match="Internal error from Core") as caught:
            await Asked(client, batch("held"))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # which may be asked again
        await client.close(None)
