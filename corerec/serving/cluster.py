"""Starts a cluster on this machine with Ray, watches it, and takes it down."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from corerec.errors import Unavailable
from corerec.serving.config import ServerConfig
from corerec.serving.deployment_file import DeploymentFile
from corerec.serving.local import gateway_config
from corerec.serving.placement import divided
from gateway.config import GatewayConfig
from ranking_svc.config import RankingConfig
from rerank_svc.config import RerankConfig
from retrieval_svc.config import RetrievalConfig, ShardConfig
from retrieval_svc.shard import shard_name

Progress = Callable[[str], None]

_POLL_SECONDS = 0.1
_START_SECONDS = 180.0


def check_port_free(config: GatewayConfig) -> None:
    """Raise Unavailable when something listens on the public port.

    Gateway replicas share their port on purpose (SO_REUSEPORT), so the system would let a second
    cluster share it too, and split the traffic between them.
    """
    if config.port == 0:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            raise Unavailable(
                f"port {config.port} of {config.host} is taken ({error.strerror}): stop what "
                "listens there (corerec stop), or set another port under [gateway]"
            ) from None


def store_address(store: str | Path) -> str:
    """Return a store's address as processes of other folders understand it."""
    text = str(store)
    return text if "://" in text else str(Path(text).resolve())


class Cluster:
    """A local Ray cluster with the services on Serve. Use inside one running event loop."""

    def __init__(
        self, file: DeploymentFile, release: Path, store: str | Path, port: int | None
    ) -> None:
        gateway = gateway_config(file, str(store), port)
        check_port_free(gateway)
        self._gateway = gateway
        self._release = str(release.resolve())
        # Replicas run in other directories and read the tables again: paths go absolute.
        address = store_address(store)
        tables = {
            name: {**table, "store": store_address(str(table.get("store") or store))}
            for name, table in file.tables.items()
            if name != "gateway"
        }
        tables["gateway"] = asdict(gateway) | {
            "store": address,
            "rules": str(Path(gateway.rules).resolve()) if gateway.rules else "",
        }
        if tables["rerank"].get("rules"):
            tables["rerank"]["rules"] = str(Path(tables["rerank"]["rules"]).resolve())
        self._shards = file.config(RetrievalConfig, "retrieval").shards
        services = _services(file, gateway, self._shards)
        for name, cores in divided(services, sorted(os.sched_getaffinity(0))).items():
            tables[name]["cores"] = cores
        self.tables = tables
        """What each service is configured with, the cores that it was given among it."""
        self._cpus = _cpus(services, self._shards)
        self._endpoints: dict[str, Any] = {}

    async def start(self, progress: Progress) -> None:
        """Return when every stage runs and the gateway answers. Raises Unavailable otherwise."""
        progress("starting Ray")
        await asyncio.to_thread(_start_ray, self._cpus)
        from ray import serve

        from corerec.serving.ray_glue import ServeEndpoints
        from gateway import deployment as gateway
        from ranking_svc import deployment as ranking
        from rerank_svc import deployment as rerank
        from retrieval_svc import deployment as retrieval

        modules = {
            "retrieval": retrieval,
            "ranking": ranking,
            "rerank": rerank,
            "gateway": gateway,
        }
        apps = {
            name: module.app({"release": self._release, "config": self.tables[name]})
            for name, module in modules.items()
        }
        for shard in range(self._shards if self._shards > 1 else 0):
            own = {"release": self._release, "shard": shard, "shards": self._shards}
            name = shard_name(shard, self._shards)
            apps[name] = retrieval.shard_app(own | {"config": self.tables["shard"]})
        targets = [serve.RunTarget(app, name=name, route_prefix=None) for name, app in apps.items()]
        progress("starting the services")
        await asyncio.to_thread(
            serve.run_many,
            targets,
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )
        await self._wait_until_running(serve, progress)
        for name in apps:
            self._endpoints[name] = ServeEndpoints(name, name)

    async def _wait_until_running(self, serve: Any, progress: Progress) -> None:
        deadline = asyncio.get_running_loop().time() + _START_SECONDS
        while True:
            applications = (await asyncio.to_thread(serve.status)).applications
            states = {name: app.status.value for name, app in applications.items()}
            progress("  ".join(f"{n} {s.lower()}" for n, s in sorted(states.items())))
            for name, application in applications.items():
                if application.status.value == "DEPLOY_FAILED":
                    raise Unavailable(f"{name} did not start: {_reason(application)}")
            if states and all(state == "RUNNING" for state in states.values()):
                return
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable(f"the services did not start in {_START_SECONDS:.0f} s: {states}")
            await asyncio.sleep(_POLL_SECONDS)

    @property
    def address(self) -> str:
        """`host:port` of the gateway."""
        (replica, *_) = self.replicas()["gateway"] or [{"address": ""}]
        if self._gateway.port:
            return f"{self._gateway.host}:{self._gateway.port}"
        return str(replica["address"])

    def replicas(self) -> Mapping[str, list[Mapping[str, Any]]]:
        """Return, by service, what each running replica announces."""
        return {name: endpoints.replicas for name, endpoints in self._endpoints.items()}

    def on_change(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever a replica comes or goes."""
        for endpoints in self._endpoints.values():
            endpoints.subscribe(lambda _: changed())

    async def wait_for_replicas(self) -> None:
        """Return when every service has announced a replica."""
        await asyncio.gather(*(e.first.wait() for e in self._endpoints.values()))

    async def stop(self) -> None:
        """Drain the services and end Ray."""
        for endpoints in self._endpoints.values():
            endpoints.close()
        await asyncio.to_thread(_stop_ray)


def _services(file: DeploymentFile, gateway: GatewayConfig, shards: int) -> dict[str, ServerConfig]:
    services: dict[str, ServerConfig] = {
        "gateway": gateway,
        "retrieval": file.config(RetrievalConfig, "retrieval"),
        "ranking": file.config(RankingConfig, "ranking"),
        "rerank": file.config(RerankConfig, "rerank"),
    }
    if shards > 1:
        services["shard"] = file.config(ShardConfig, "shard")
    return services


def _cpus(services: Mapping[str, ServerConfig], shards: int) -> float:
    """Return the CPUs that all replicas together ask Ray for."""
    count = {"shard": shards}
    return sum(own.replicas * own.cpus * count.get(name, 1) for name, own in services.items())


def _start_ray(cpus: float) -> None:
    from corerec.serving.ray_environment import local_environment

    # Ray's own processes inherit the environment of the one that starts them.
    with _environment(local_environment(os.environ)):
        import ray
        from ray import serve

        ray.init(
            # Stages share cores, see [*] cpus; a rolling update needs as much again.
            num_cpus=max(4, os.cpu_count() or 1, math.ceil(2 * cpus)),
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            namespace="corerec",
            object_store_memory=100 << 20,  # nothing travels through it
            _node_ip_address="127.0.0.1",
        )
        serve.start(proxy_location="Disabled")


def _stop_ray() -> None:
    import ray
    from ray import serve

    with contextlib.suppress(Exception):  # it may be gone already; Ray goes down in any case
        serve.shutdown()  # type: ignore[no-untyped-call]
    shutdown: Callable[[], None] = ray.shutdown
    shutdown()


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _reason(application: Any) -> str:
    texts = [application.message, *(d.message for d in application.deployments.values())]
    return "; ".join(text.strip() for text in texts if text.strip())[-2000:]
