"""Asker: asks sources side by side; one that has a time-out is left out when it is late."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

from corerec.retrieval.threads import use_threads

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Answer(Generic[T]):
    """What a source said."""

    value: T | None
    """None when it was late."""
    micros: int
    """How long it took, or was waited for."""


class Asker(Generic[T]):
    """Runs the calls of sources; those without a time-out on the caller's thread."""

    def __init__(self, timeouts: Mapping[str, float], threads: int) -> None:
        """Take milliseconds by kind, and how many threads a call into FAISS or torch may use."""
        self._seconds = {kind: limit / 1000 for kind, limit in timeouts.items()}
        self._pools = {
            kind: ThreadPoolExecutor(1, f"source-{kind}", use_threads, (threads,))
            for kind in timeouts
        }
        self._late: dict[str, Future[Answer[T]]] = {}
        self.late: dict[str, int] = dict.fromkeys(timeouts, 0)
        """How often each source with a time-out was left out."""

    def ask(self, calls: Mapping[str, Callable[[], T]]) -> dict[str, Answer[T]]:
        """Return the answer of each call, by kind.

        A source that is still busy with an earlier call is late at once: calls do not queue up.
        """
        if not self._pools:
            return {kind: _timed(call) for kind, call in calls.items()}
        start = time.perf_counter()
        running: dict[str, Future[Answer[T]]] = {}
        for kind, call in calls.items():
            if kind in self._pools and not self._busy(kind):
                running[kind] = self._pools[kind].submit(_timed, call)
        found = {kind: _timed(call) for kind, call in calls.items() if kind not in self._pools}
        for kind in calls:
            if kind in self._pools:
                found[kind] = self._await(kind, running.get(kind), start)
        return {kind: found[kind] for kind in calls}

    def settle(self) -> None:
        """Return when no late source is still at work: what it reads may change then."""
        wait(self._late.values())
        self._late.clear()

    def _busy(self, kind: str) -> bool:
        late = self._late.get(kind)
        return late is not None and not late.done()

    def _await(self, kind: str, own: Future[Answer[T]] | None, start: float) -> Answer[T]:
        if own is not None:
            left = max(0.0, start + self._seconds[kind] - time.perf_counter())
            if wait((own,), left).done:
                return own.result()
            self._late[kind] = own
        self.late[kind] += 1
        return Answer(value=None, micros=int((time.perf_counter() - start) * 1e6))


def _timed(call: Callable[[], T]) -> Answer[T]:
    start = time.perf_counter_ns()
    value = call()
    return Answer(value=value, micros=(time.perf_counter_ns() - start) // 1000)
