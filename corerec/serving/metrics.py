"""Prometheus metrics of one process; names follow the OpenTelemetry RPC conventions.

One registry and one port a process; a process holds one service, so no label says which.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)

from corerec.serving.core_metrics import CoreCollector
from corerec.serving.histogram import Histogram

log = logging.getLogger(__name__)

_SECONDS = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2,
    0.5, 1.0, 2.0, 5.0,
)  # fmt: skip
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_WEIGHTS = (*_COUNTS, 8192, 16384, 32768)


class Metrics:
    """Every metric of a CoreRec process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self.rpc_seconds = Histogram(
            "rpc_server_duration_seconds",
            "Time from a call's arrival to its answer.",
            ("rpc_service", "rpc_method", "rpc_grpc_status_code"),
            buckets=_SECONDS,
            registry=registry,
        )
        self.entry_errors = Counter(
            "corerec_entry_errors_total",
            "Entries of stage batches that ended in an error, by status.",
            ("stage", "rpc_grpc_status_code"),
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "corerec_queue_seconds",
            "Time that an entry waited before its batch was computed.",
            ("stage",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.compute_seconds = Histogram(
            "corerec_compute_seconds",
            "Time that one batch took to compute.",
            ("stage",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "corerec_batch_size",
            "Entries in one computed batch.",
            ("stage",),
            buckets=_COUNTS,
            registry=registry,
        )
        self.batch_weight = Histogram(
            "corerec_batch_weight",
            "Weight of one computed batch: candidates in ranking, entries elsewhere.",
            ("stage",),
            buckets=_WEIGHTS,
            registry=registry,
        )
        self.queue_length = Gauge(
            "corerec_queue_length", "Entries that wait now.", ("stage",), registry=registry
        )
        self.expired = Counter(
            "corerec_expired_total",
            "Entries dropped uncomputed because their budget ran out or their caller left.",
            ("stage",),
            registry=registry,
        )
        self.candidates = Histogram(
            "corerec_candidates",
            "Candidates of one request into and out of a stage.",
            ("stage", "direction"),
            buckets=_COUNTS,
            registry=registry,
        )
        self.stage_seconds = Histogram(
            "corerec_stage_seconds",
            "Time of one stage of one request, as the gateway saw it.",
            ("stage",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.degraded = Counter(
            "corerec_degraded_total",
            "Answers from which a stage was missing.",
            ("stage", "reason"),
            registry=registry,
        )
        self.stage_attempts = Counter(
            "corerec_stage_attempts_total",
            "Stage RPCs sent, by outcome.",
            ("stage", "outcome"),
            registry=registry,
        )
        self._add_stage_calls(registry)
        self.replicas = Gauge(
            "corerec_stage_replicas",
            "Replicas of a stage that this gateway knows, by state.",
            ("stage", "state"),
            registry=registry,
        )
        self.release = Gauge(
            "corerec_release_info",
            "1 for the release that this process holds.",
            ("release",),
            registry=registry,
        )
        self.cores = CoreCollector()
        registry.register(self.cores)
        self._add_catalogue(registry)
        self._add_retrieval(registry)

    def _add_stage_calls(self, registry: CollectorRegistry) -> None:
        self.stage_rpc_seconds = Histogram(
            "corerec_stage_rpc_seconds",
            "Time of one stage RPC, as its caller saw it.",
            ("stage",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.stage_rpc_entries = Histogram(
            "corerec_stage_rpc_entries",
            "Entries in one stage RPC.",
            ("stage",),
            buckets=_COUNTS,
            registry=registry,
        )
        self.stage_rpc_weight = Histogram(
            "corerec_stage_rpc_weight",
            "Weight of one stage RPC: candidates for ranking, entries elsewhere.",
            ("stage",),
            buckets=_WEIGHTS,
            registry=registry,
        )
        self.stage_wait_seconds = Histogram(
            "corerec_stage_wait_seconds",
            "Time that the first entry of a stage RPC waited for it to be sent.",
            ("stage",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.group_size = Histogram(
            "corerec_group_size",
            "Requests that the gateway started together.",
            buckets=_COUNTS,
            registry=registry,
        )
        self.group_wait_seconds = Histogram(
            "corerec_group_wait_seconds",
            "Time that a request waited for room, of those that did.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.stage_rpcs = Gauge(
            "corerec_stage_rpcs", "Stage RPCs under way now.", ("stage",), registry=registry
        )
        self.stage_depth = Gauge(
            "corerec_stage_depth",
            "Stage RPCs that may be under way per replica now.",
            ("stage",),
            registry=registry,
        )

    def _add_catalogue(self, registry: CollectorRegistry) -> None:
        self.catalogue_position = Gauge(
            "corerec_catalogue_position",
            "Position of the newest catalogue change that this process has applied.",
            ("stage",),
            registry=registry,
        )
        self.catalogue_lag = Gauge(
            "corerec_catalogue_lag_seconds",
            "Time since this process last had every catalogue change of the store.",
            ("stage",),
            registry=registry,
        )
        self.store_errors = Counter(
            "corerec_store_errors_total",
            "Times that this process could not read or write the store.",
            ("stage",),
            registry=registry,
        )

    def _add_retrieval(self, registry: CollectorRegistry) -> None:
        self.source_seconds = Histogram(
            "corerec_source_seconds",
            "Time of one step of one retrieval source: encode or search.",
            ("source", "step"),
            buckets=_SECONDS,
            registry=registry,
        )
        self.shard_seconds = Histogram(
            "corerec_shard_seconds",
            "Time of one shard's answer to one search, as the retrieval front saw it.",
            ("shard",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.hedges = Counter(
            "corerec_hedges_total",
            "Second RPCs sent because the first was late, by which of the two answered first.",
            ("stage", "winner"),
            registry=registry,
        )
        self.coverage = Histogram(
            "corerec_coverage",
            "Share of retrieval that answered a request.",
            buckets=(0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1.0),
            registry=registry,
        )


def observe_sources(
    core: Any, metrics: Metrics, steps: Sequence[str] = ("encode", "search")
) -> Callable[[Any], None]:
    """Show what a retrieval core counts, and return what records its results' timings by source."""
    metrics.cores.watch(core)

    def observe(result: Any) -> None:
        for name, micros in result.timings.items():
            source, _, step = name.rpartition("_")
            if source and step in steps:
                metrics.source_seconds.labels(source, step).observe(micros / 1e6)

    return observe


@dataclass
class MetricsServer:
    """A running /metrics endpoint."""

    server: WSGIServer
    port: int

    @classmethod
    def start(cls, metrics: Metrics, host: str, port: int) -> MetricsServer:
        """Serve `metrics` on `host:port`; port 0 takes a free one."""
        server, _ = start_http_server(port, addr=host, registry=metrics.registry)
        return cls(server=server, port=server.server_port)

    def stop(self) -> None:
        """Close the port."""
        self.server.shutdown()
        self.server.server_close()
