"""Everything of CoreRec that touches Ray Serve: deployments that host their own gRPC server, and
discovery of them.

Serve runs the replicas; requests never pass through it. `LongPollClient`, `LongPollNamespace` and
`RunningReplicaInfo` are private parts of Ray: they are used here alone, for the one version that
pyproject.toml pins, and tests/cluster proves them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray import serve
from ray.serve._private.common import DeploymentID, DeploymentTargetInfo
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve._private.long_poll import LongPollClient, LongPollNamespace

from corerec.serving.config import ServerConfig
from corerec.serving.endpoints import Addresses
from corerec.serving.process import ServerProcess

log = logging.getLogger(__name__)

_RESUBSCRIBE_SECONDS = 2.0
_WAIT_LOOP_SECONDS = 0.5


class ServedReplica:
    """Base of every service's deployment class: hosts a ServerProcess inside a Serve replica."""

    _process: ServerProcess

    async def _start(self, process: ServerProcess) -> None:
        self._process = process
        await process.start()

    def record_replica_metadata(self) -> dict[str, Any]:
        """Announce where this replica listens."""
        node_ip: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        return self._process.metadata(node_ip)

    async def check_health(self) -> None:
        """Raise when the replica does not answer on its serving path; Serve then replaces it."""
        await self._process.check()

    async def __del__(self) -> None:
        """Drain; Serve awaits this after the replica has left every list."""
        if hasattr(self, "_process"):
            await self._process.drain()


def bind(
    cls: type[ServedReplica], config: ServerConfig, name: str, arguments: Mapping[str, Any]
) -> serve.Application:
    """Return `cls` as a Serve application of one deployment named `name`."""
    drain_seconds = config.drain_notice_seconds + config.drain_grace_seconds
    deployment: Any = serve.deployment(
        cls,
        name=name,
        num_replicas=config.replicas,
        ray_actor_options={"num_cpus": config.cpus, "num_gpus": config.gpus},
        health_check_period_s=2.0,
        health_check_timeout_s=5.0,
        graceful_shutdown_wait_loop_s=_WAIT_LOOP_SECONDS,
        graceful_shutdown_timeout_s=2 * (_WAIT_LOOP_SECONDS + drain_seconds) + 5.0,
        max_surge_percent=100,  # the default, 0, stops old replicas before new ones serve
    )
    application: serve.Application = deployment.bind(**arguments)
    return application


class ServeEndpoints:
    """Addresses of a Serve deployment's running replicas, as its controller pushes them."""

    def __init__(self, application: str, deployment: str) -> None:
        self._id = DeploymentID(name=deployment, app_name=application)
        self._changed: list[Callable[[Addresses], None]] = []
        self.replicas: list[Mapping[str, Any]] = []
        """What each running replica announces."""
        self.first = asyncio.Event()
        """Set once a replica has been announced."""
        self._known: Addresses = frozenset()
        self._loop = asyncio.get_running_loop()
        self._client: Any = None
        self._watch = asyncio.create_task(self._keep_subscribed(), name=f"discover-{application}")

    def subscribe(self, changed: Callable[[Addresses], None]) -> None:
        """Call `changed` with the addresses known so far and at every change."""
        self._changed.append(changed)
        changed(self._known)

    def _update(self, info: DeploymentTargetInfo) -> None:
        found = [r.replica_metadata for r in info.running_replicas]
        self.replicas = [metadata for metadata in found if "address" in metadata]
        addresses = frozenset(metadata["address"] for metadata in self.replicas)
        if addresses:
            self.first.set()
        if addresses != self._known:
            log.info("replicas of %s: %s", self._id.name, sorted(addresses))
            self._known = addresses
            for changed in self._changed:
                changed(addresses)

    async def _keep_subscribed(self) -> None:
        """Subscribe, and again when the controller was lost; meanwhile the last list stays."""
        while True:
            if self._client is None or not self._client.is_running:
                try:
                    # The look-up blocks on Ray's control store, so it leaves the loop.
                    controller = await asyncio.to_thread(
                        ray.get_actor, SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE
                    )
                    key: Any = (LongPollNamespace.DEPLOYMENT_TARGETS, self._id)
                    self._client = LongPollClient(
                        controller,
                        {key: self._update},
                        call_in_event_loop=self._loop,
                        client_id=f"corerec-gateway:{self._id.name}",
                    )
                except ValueError as error:  # no controller at the moment
                    log.warning("cannot follow replicas of %s: %s", self._id.name, error)
            await asyncio.sleep(_RESUBSCRIBE_SECONDS)

    def close(self) -> None:
        """Stop following."""
        self._watch.cancel()
        self._changed.clear()
        if self._client is not None:
            self._client.stop()
