"""One step of two-tower training as tensors, and the thread that makes them while a GPU works."""

# B windows or bags, T positions, Q queries, P positives, C negatives, H hard ones, R item rows

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one step of training computes; places are into `rows`."""

    rows: Tensor
    """(R,) distinct item rows, N is the start."""
    users: Tensor
    """(B,) rows of the user table, 0 unknown."""
    tokens: Tensor
    """Windows: (Q,) place of the newest event of each query. Bags: (E,) of each shown event."""
    at: Tensor
    """Windows: (Q,) where each token stands in the (B, T) matrix. Bags: (E,) its bag."""
    shares: Tensor
    """Bags: (E,) weight of each shown event in the mean. Windows: empty."""
    length: int
    """T; 0 for bags."""
    query_user: Tensor
    """Windows: (Q,) the window of each query. Bags: empty, query b is user b's."""
    context: Tensor
    """(Q, 4), or empty without times."""
    targets: Tensor
    """(P,) item numbers of the positives."""
    right: Tensor
    """(P,) places of the positives."""
    owner: Tensor
    """Bags: (P,) the query of each positive. Windows: empty, positive q is query q's."""
    negatives: Tensor
    """(C,) places of the negatives that all queries share; empty for the whole catalogue."""
    negative_items: Tensor
    """(C,) their item numbers."""
    each: Tensor
    """(P, n) places of each positive's own negatives (BPR, BCE)."""
    each_kept: Tensor
    """(P, n) bool: False where such a negative is in truth a positive."""
    hard: Tensor
    """(Q, H) places of hard negatives, -1 where a user has none."""
    weight: float
    """Of the mean over these positives, 1 where they are all of the step's."""

    def to(self, device: torch.device) -> Step:
        """Return the step on a device, without waiting for the copy."""
        if device.type != "cuda":
            return self
        moved = {
            f.name: getattr(self, f.name).pin_memory().to(device, non_blocking=True)
            for f in fields(self)
            if f.name not in ("length", "weight")
        }
        return Step(**moved, length=self.length, weight=self.weight)


def prefetched(steps: Iterator[Step], device: torch.device) -> Iterator[Step]:
    """Yield steps on a device; for a GPU they are made in a thread, two ahead."""
    if device.type != "cuda":
        yield from steps
        return
    ready: queue.Queue[Step | BaseException | None] = queue.Queue(maxsize=2)
    stopped = threading.Event()

    def put(found: Step | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                ready.put(found, timeout=0.1)
                return
            except queue.Full:
                continue

    def make() -> None:
        try:
            for step in steps:
                if stopped.is_set():
                    return
                put(step.to(device))
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=make, name="two-tower-steps", daemon=True)
    thread.start()
    try:
        while (found := ready.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        stopped.set()
        thread.join()
