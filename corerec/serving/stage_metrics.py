"""What one stage client counts: labels are looked up once, as that costs more than counting."""

from __future__ import annotations

from typing import Any

from corerec.serving.depth import Depth
from corerec.serving.metrics import Metrics
from corerec.serving.sending import Attempt


class StageMetrics:
    """The metrics of the calls to one stage."""

    def __init__(self, metrics: Metrics, stage: str, depth: Depth) -> None:
        self._metrics, self._stage = metrics, stage
        self._seconds = metrics.stage_rpc_seconds.labels(stage)
        self._entries = metrics.stage_rpc_entries.labels(stage)
        self._weight = metrics.stage_rpc_weight.labels(stage)
        self._wait = metrics.stage_wait_seconds.labels(stage)
        self._under_way = metrics.stage_rpcs.labels(stage)
        self._ok = metrics.stage_attempts.labels(stage, "OK")
        metrics.stage_depth.labels(stage).set_function(lambda: depth.value)

    def sent(self, attempt: Attempt[Any, Any]) -> None:
        """Count an RPC that leaves now."""
        batch = attempt.batch
        self._under_way.inc()
        self._entries.observe(len(batch))
        self._weight.observe(sum(waiting.weight for waiting in batch))
        self._wait.observe(attempt.started - batch[0].arrived)

    def ended(self, attempt: Attempt[Any, Any], outcome: str, now: float) -> None:
        """Count an RPC that ended at `now`, on the monotonic clock."""
        self._under_way.dec()
        if outcome == "OK":
            self._ok.inc()
            self._seconds.observe(now - attempt.started)
        else:
            self._metrics.stage_attempts.labels(self._stage, outcome).inc()

    def hedged(self, winner: str) -> None:
        """Count a batch that two replicas were asked for, by which of them answered first."""
        self._metrics.hedges.labels(self._stage, winner).inc()
