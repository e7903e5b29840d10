"""RecallProbe: searches a small share of live queries exactly too, in the background.

So an index that is stale or badly tuned is seen the day it happens.
"""

# N items of the shard, D width, k items wanted

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from queue import Empty, Full, Queue

import numpy as np

from corerec.errors import ConfigError
from corerec.retrieval.owned import Eligible
from corerec.retrieval.threads import use_threads
from corerec.retrieval.vectors import ItemVectors
from corerec.stages import Float32s, Int64s

log = logging.getLogger(__name__)

RECALL_AT = 500
_QUEUE = 8
_BLOCK = 16_384
_IDLE_SECONDS = 5.0
_PAUSE = 9.0
"""Times as long as a block took nothing is done before the next one, where there is `rest`."""


@dataclass(frozen=True, kw_only=True)
class Recall:
    """What a probe has measured so far."""

    mean: float
    """Mean share of the exact best that the index had found; NaN when nothing was measured."""
    count: int
    """Queries that were measured."""
    skipped: int
    """Queries that were drawn while the queue was full."""


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    vectors: ItemVectors
    query: Float32s
    found: Int64s
    eligible: Eligible


class RecallProbe:
    """Measures recall@500 of a share of searches; costs the caller a draw and a place in a queue.

    Items that change between a search and its measurement count as lost or found by chance; with
    a queue this short they are few.
    """

    def __init__(
        self, share: float, *, at: int = RECALL_AT, seed: int = 0, rest: float = 0.0
    ) -> None:
        """Measure searches for at least `at` items with probability `share`.

        A measurement of a million items takes a tenth of a second of a core, during which what is
        asked there would be late. With `rest` it is made in blocks with pauses between them, and
        after it none is drawn for `rest` times as long as it computed.

        Raises:
            ConfigError: for a share outside [0, 1].
        """
        if not 0 <= share <= 1:
            raise ConfigError(f"probe_share must be in [0, 1], got {share}")
        self.share, self.at, self._rest, self._rests_until = share, at, rest, 0.0
        self._rng = np.random.default_rng(seed)
        self._queue: Queue[_Drawn] = Queue(_QUEUE)
        self._total, self._count, self._skipped = 0.0, 0, 0
        self._lock, self._busy = threading.Lock(), 0.0
        self._thread: threading.Thread | None = None

    @property
    def recall(self) -> Recall:
        """What was measured so far."""
        with self._lock:
            mean = self._total / self._count if self._count else float("nan")
            return Recall(mean=mean, count=self._count, skipped=self._skipped)

    def draw(self, k: int) -> bool:
        """Say whether a search for k items is to be measured."""
        if k < self.at or self.share <= 0 or self._rng.random() >= self.share:
            return False
        return not self._rest or time.monotonic() >= self._rests_until

    def offer(
        self, vectors: ItemVectors, query: Float32s, found: Int64s, eligible: Eligible
    ) -> None:
        """Measure a search that found these numbers, best first; dropped when the queue is full."""
        drawn = _Drawn(
            vectors=vectors, query=query.copy(), found=found[: self.at].copy(), eligible=eligible
        )
        with self._lock:
            try:
                self._queue.put_nowait(drawn)
            except Full:
                self._skipped += 1
                return
            if self._rest:
                self._rests_until = float("inf")  # until this one is measured
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="recall-probe", daemon=True)
                self._thread.start()

    def settle(self) -> None:
        """Return when everything in the queue is measured."""
        self._queue.join()

    def _work(self) -> None:
        """Measure until nothing comes for a while: a release that goes takes its thread along."""
        # Several would wait for one another in spinning loops, on processors that serve.
        use_threads(1)
        while True:
            try:
                drawn = self._queue.get(timeout=_IDLE_SECONDS)
            except Empty:
                with self._lock:
                    if self._queue.empty():
                        self._thread = None
                        return
                continue
            self._busy = 0.0
            try:
                measured = self._measure(drawn)
                if measured is not None:
                    with self._lock:
                        self._total += measured
                        self._count += 1
            except Exception:
                # A measurement is worth no answer; what broke it is worth knowing.
                log.exception("the recall of a search could not be measured")
            finally:
                self._rests_until = time.monotonic() + self._rest * self._busy
                del drawn  # or its vectors would stay until the next one
                self._queue.task_done()

    def _measure(self, drawn: _Drawn) -> float | None:
        best = np.empty(0, np.float32)
        for start in range(0, drawn.eligible.items.rows, _BLOCK):
            began = time.monotonic()
            own = drawn.eligible.items.numbers(start, start + _BLOCK)
            own = own[drawn.eligible.test(own)]
            own = own[drawn.vectors.has(own)]
            scores = np.concatenate([best, drawn.vectors.dots(drawn.query, own)])
            if len(scores) > self.at:
                scores = np.partition(scores, len(scores) - self.at)[len(scores) - self.at :]
            best = scores
            took = time.monotonic() - began
            self._busy += took
            if self._rest:
                time.sleep(_PAUSE * took)
        if not len(best):
            return None
        # Equal scores are equally good, whichever of them was found.
        found = drawn.vectors.dots(drawn.query, drawn.found) >= best.min()
        return min(int(found.sum()), len(best)) / len(best)
