"""Which cores the services of one machine serve on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from corerec.serving.config import ServerConfig

_TOGETHER = (("gateway", "rerank"), ("retrieval", "ranking"))
"""Halves of about the same work, so that neither core waits for the other for long, and each
core's cache keeps the code of two services, not of four."""


def divided(
    services: Mapping[str, ServerConfig], available: Sequence[int]
) -> dict[str, tuple[int, ...]]:
    """Return the cores of each service where all of them share a machine; empty where they do not.

    Two cores are divided. With more there mostly is an idle one, and a service on cores of its own
    would leave the others' idle. Who gives a service its cores, more replicas or shards divides the
    machine otherwise.
    """
    names = {name for side in _TOGETHER for name in side}
    if len(available) != len(_TOGETHER) or set(services) != names:
        return {}
    if any(config.cores != "auto" or config.replicas > 1 for config in services.values()):
        return {}
    cores = zip(_TOGETHER, sorted(available), strict=True)
    return {name: (core,) for side, core in cores for name in side}
