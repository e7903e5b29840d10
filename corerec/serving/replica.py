"""One replica of a stage as its caller sees it: a channel, what is in flight, up or down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from corerec.serving.contracts import StageContract
from corerec.serving.hedge import Pace
from corerec.serving.stream_client import StreamClient

log = logging.getLogger(__name__)

_PROBE_EVERY_SECONDS = 0.25
_PROBE_TIMEOUT_SECONDS = 0.5
_TIMEOUTS_UNTIL_DOWN = 3
_OPTIONS = (
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    # A pool shared by address would let a dead channel's back-off outlive it.
    ("grpc.use_local_subchannel_pool", 1),
)


class Replica:
    """One address. A replica that fails is left alone until its health check says SERVING.

    The first health check is made at once: it opens the connection that RPCs will use.

    Args:
        up: called when a replica that was down can be asked again.
        trusted: it may be asked before that first health check has been answered.
    """

    def __init__(
        self,
        address: str,
        *,
        contract: StageContract[Any, Any],
        up: Callable[[], None],
        trusted: bool = True,
    ) -> None:
        self.address = address
        self.in_flight = 0
        """Stage RPCs now under way."""
        self.sent = 0
        """Stage RPCs sent so far."""
        self.up = trusted
        self.greeted = False
        """Whether it has said SERVING since this channel was made."""
        self.pace = Pace()
        self._service, self._came_up = contract.service, up
        self._timeouts = 0
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._stream = StreamClient(self._channel, contract)
        self.send = self._stream.send
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self._probe: asyncio.Task[None] | None = None
        self._probe_until_up(0.0)

    @property
    def load(self) -> tuple[int, int]:
        """What to compare replicas by: the least busy first, of these the one used least."""
        return self.in_flight, self.sent

    def succeeded(self) -> None:
        """Note an answered RPC."""
        self._timeouts = 0

    def timed_out(self) -> None:
        """Note an RPC that ran out of time; several in a row mean that the replica hangs."""
        self._timeouts += 1
        if self._timeouts >= _TIMEOUTS_UNTIL_DOWN:
            self.failed("timed out repeatedly")

    def failed(self, why: str) -> None:
        """Stop using the replica until it says SERVING again."""
        if self.up:
            self.up = False
            log.warning("replica down", extra={"address": self.address, "why": why})
            self._probe_until_up(_PROBE_EVERY_SECONDS)

    def _probe_until_up(self, after: float) -> None:
        if self._probe is not None:
            self._probe.cancel()
        probe = self._wait_until_up(after)
        self._probe = asyncio.create_task(probe, name=f"probe-{self.address}")

    async def _wait_until_up(self, after: float) -> None:
        request = health_pb2.HealthCheckRequest(service=self._service)
        while True:
            await asyncio.sleep(after)
            after = _PROBE_EVERY_SECONDS
            try:
                answer = await self._health.Check(request, timeout=_PROBE_TIMEOUT_SECONDS)
            except grpc.aio.AioRpcError:
                continue
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                break
        self.greeted, self._probe = True, None
        if not self.up:
            self.up, self._timeouts = True, 0
            log.info("replica up", extra={"address": self.address})
            self._came_up()

    async def close(self, grace: float | None = None) -> None:
        """Close the channel after batches in flight are answered, at most `grace` seconds."""
        if self._probe is not None:
            self._probe.cancel()
        await self._stream.close(grace)
        await self._channel.close()
