"""Configuration that every service has; each service's own `config.py` adds its part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

Nice = Annotated[int, Field(ge=0, le=19)]
"""What is added to a process's niceness."""


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """One gRPC server and the process around it."""

    host: str = "127.0.0.1"
    """Address to listen on. `0.0.0.0` listens on all; replicas then advertise their node's."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port to listen on; 0 takes a free one, which discovery announces."""
    share_port: bool = False
    """Let several processes of this machine listen on `port` (SO_REUSEPORT)."""
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port of Prometheus metrics; 0 takes a free one, which the log and `corerec status` tell."""
    max_message_bytes: Annotated[int, Field(ge=65536, le=1 << 30)] = 4 << 20
    """Largest message read or written, bytes. Larger ones get RESOURCE_EXHAUSTED."""
    max_concurrent_rpcs: Annotated[int, Field(ge=1)] = 512
    """Calls in flight at once; one more gets RESOURCE_EXHAUSTED. A stage's stream is one call; its
    batches are bounded by `max_queue`."""
    drain_notice_seconds: Annotated[float, Field(ge=0, le=600)] = 0.3
    """How long to say NOT_SERVING and still answer, before refusing new calls."""
    drain_grace_seconds: Annotated[float, Field(ge=0, le=600)] = 5.0
    """How long calls in flight may take to finish after that."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least level that is logged."""
    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """Replicas on the cluster."""
    cpus: Annotated[float, Field(ge=0)] = 0.25
    """CPUs that Ray sets aside for a replica; a fraction lets stages share a core."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs that Ray sets aside for a replica."""
    cores: Literal["auto"] | tuple[Annotated[int, Field(ge=0)], ...] = "auto"
    """Cores of its machine, by number, that a replica runs on once it is ready; empty: all. "auto"
    is all too, except that `corerec serve` divides a machine of two cores among its services. An
    index that is built afresh in the background uses all in any case."""
    nice: Nice = 0
    """Added to the niceness of a replica once it is ready: on cores that it shares, processes that
    are less nice come first."""


@dataclass(frozen=True, kw_only=True)
class StageConfig(ServerConfig):
    """A stage that computes batches."""

    nice: Nice = 10
    """See ServerConfig. The gateway comes first where it shares cores with stages: what it hands on
    at once makes larger batches, and an answer that is ready does not wait for others' batches.
    Ranking comes before retrieval: what it ranks is nearer to its answer."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads of the numeric libraries in one replica."""
    max_queue: Annotated[int, Field(ge=1, le=100_000)] = 512
    """Entries that may wait; one more gets RESOURCE_EXHAUSTED."""
    max_batch: Annotated[int, Field(ge=1, le=256)] = 32
    """Most entries that are computed together."""
    max_batch_weight: Annotated[int, Field(ge=1, le=1 << 24)] = 16_384
    """Most weight that is computed together: candidates, in ranking; elsewhere each entry weighs 1.
    A heavier entry is computed alone."""
    inline_ms: Annotated[float, Field(ge=0, le=1000)] = 8.0
    """A batch that is likely to take less is computed in the replica's event loop, which saves a
    hop to the core's thread and back; 0 computes all of them on the thread, so that the loop of a
    replica with cores to spare takes in the next batch meanwhile."""
    store: str = ""
    """Store whose catalogue this replica follows: a SQLite file, or redis://host:port/number. Empty
    means that it serves the release's own items only; `corerec serve` fills in the gateway's."""
    tail_ms: Annotated[int, Field(ge=1, le=60_000)] = 100
    """How often the store is asked for changes of the catalogue, milliseconds."""
