"""What every Ray process of a CoreRec cluster must find in its environment, before Ray starts."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        # One event loop a replica: grpc.aio misbehaves with several (grpc#25364, #42357).
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
)

QUIET: Mapping[str, str] = MappingProxyType(
    {
        # Serve looks over its replicas four times a second, not ten: each look asks the control
        # store three times. Callers see a lost replica by its connection, not by this.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.25",
        # Nobody reads Ray's own metrics here: the services export theirs.
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "10000",
        "RAY_enable_metrics_collection": "0",
        "RAY_task_events_report_interval_ms": "0",
        # Ray's 15 for every worker would be the gateway's too, which is to come before the stages.
        "RAY_worker_niceness": "0",
        # Workers' logs stay files, so new ones need not be looked for ten times a second.
        "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
        "LOG_NAME_UPDATE_INTERVAL_S": "10",
    }
)
"""What gives the services more of one machine: most of it halves what Ray's own processes take."""


def local_environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return what to set for a cluster of one machine: of QUIET only what `given` leaves open."""
    return {name: text for name, text in QUIET.items() if name not in given} | dict(ENVIRONMENT)
