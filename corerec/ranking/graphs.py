"""DeviceBatches: ranks on a GPU by replaying graphs, one for each of a few sizes of batches.

A batch takes the next larger size. What it brings lies in pinned memory and goes over in one copy;
one launch computes everything, and one copy brings places and scores back. On a CPU the same is
computed without graphs, which is how it is tested where there is no GPU.
"""

# B requests, n candidates, k kept

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corerec.features import UserIndex
from corerec.live.numbers import LiveRows
from corerec.ranking.batches import MOST_REQUESTS, Best
from corerec.ranking.device_batch import DeviceBatch
from corerec.ranking.precision import Ranker
from corerec.ranking.staging import Block, Columns, Staging
from corerec.stages import MAX_CANDIDATES, MAX_K, RankEntry

GPU_PAIRS = 131_072
"""Candidates that are computed at once, unless one request has more."""
WIDTHS = (
    32, 64, 128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, MAX_CANDIDATES
)  # fmt: skip
"""Candidates of a request, in the sizes that there are graphs for."""
CASES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, MOST_REQUESTS)
"""Requests of a batch, likewise."""
SCRATCH = 1 << 28
"""Most numbers of the scratch space that joins histories with candidates, unless one request takes
more."""


class DeviceBatches:
    """Computes batches on the device of a ranker's tables."""

    pairs = GPU_PAIRS

    def __init__(
        self,
        ranker: Ranker,
        live: LiveRows,
        users: UserIndex,
        popularity: NDArray[np.float32],
        end_micros: int,
    ) -> None:
        """Take parts of one release; popularity (2, N + 1), of the blank row 0."""
        self._tables = tables = ranker.tables
        each = 2 * tables.value_count
        self.most = max(size for size in CASES if size == 1 or size * each <= SCRATCH)
        self._staging = Staging(tables, live, users, end_micros)
        self._compute = DeviceBatch(ranker, popularity, self.most * each)
        self._work = _work(tables.device)
        self._pool = self._work.pool()
        self._sizes: dict[tuple[int, int], _Size] = {}

    @property
    def counts(self) -> Mapping[str, int]:
        """Nothing: no user is kept, since a graph has no branch for one that is."""
        return {}

    def refresh(self, rows: NDArray[np.int64]) -> None:
        """Read rows (m,) of the tables anew; everything else that changed with them has."""
        grown = self._compute.refresh(rows)
        self._work.wait()
        if grown:
            # Graphs hold the addresses of tables that are gone. Their memory goes with the last.
            self._sizes.clear()
            self._pool = self._work.pool()

    def warm(self) -> None:
        """Capture every size: a first batch of a size would wait for it."""
        for narrower, width in pairwise((0, *WIDTHS)):
            for fewer, cases in pairwise((0, *CASES)):
                least = (fewer + 1) * (narrower + 1)
                if cases == 1 or (cases <= self.most and least <= self.pairs):
                    self._size(cases, width)

    def best(self, entries: Sequence[RankEntry], k: int) -> Best:
        """Return the best of entries; see `Batches.best`."""
        begin = time.perf_counter_ns()
        if self._compute.outgrown:  # by another core over the same tables, or a change that failed
            self.refresh(np.empty(0, np.int64))
        size = self._size(len(entries), max(len(entry.candidates) for entry in entries))
        self._staging.fill(entries, size.columns)
        middle = time.perf_counter_ns()
        size.run()
        end = time.perf_counter_ns()
        timings = {"features": (middle - begin) // 1000, "score": (end - middle) // 1000}
        used = slice(len(entries))
        # The next batch of this size writes to the same memory.
        return Best(
            size.places[used, :k].copy(), size.scores[used, :k].copy(), size.refused[used].copy(),
            timings,
        )  # fmt: skip

    def _size(self, cases: int, width: int) -> _Size:
        """Return the next size that so many requests by so many candidates fit in."""
        key = _next(CASES, cases), _next(WIDTHS, width)
        if key not in self._sizes:
            block = Block(self._tables.schema, *key)
            self._sizes[key] = _Size(block, *key, self._compute, self._work, self._pool)
        return self._sizes[key]


class _Work:
    """The one stream of a process on which a GPU computes batches; of a CPU, nothing."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.cuda = device, device.type == "cuda"
        # Nobody may wait for the device while another thread captures.
        self._turn = threading.RLock()
        if self.cuda:
            self._stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        """Return when the device has done what it was given, on whatever stream."""
        if self.cuda:
            with self._turn:
                torch.cuda.synchronize(self.device)

    def pool(self) -> Any:
        """Return memory for graphs: one runs at a time and leaves nothing behind."""
        return torch.cuda.graph_pool_handle() if self.cuda else None

    def pair(self, size: int) -> tuple[Tensor, Tensor]:
        """Return so many bytes here, and on the device."""
        return (
            torch.zeros(size, dtype=torch.uint8, pin_memory=self.cuda),
            torch.zeros(size, dtype=torch.uint8, device=self.device),
        )

    def captured(self, compute: Callable[[], None], pool: Any) -> Callable[[], object]:
        """Return what does the same on the stream, as one launch."""
        if not self.cuda:
            return compute
        with self._turn:
            self.wait()
            with torch.cuda.stream(self._stream):
                compute()  # libraries must not allocate in a graph what they keep
            self.wait()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(
                graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                compute()
        return graph.replay

    def run(
        self,
        there: tuple[Tensor, Tensor],
        compute: Callable[[], object],
        back: tuple[Tensor, Tensor],
    ) -> None:
        """Copy there, compute, copy back, and wait for it; others may run Python meanwhile."""
        if not self.cuda:
            there[1].copy_(there[0])
            compute()
            back[0].copy_(back[1])
            return
        with self._turn:
            with torch.cuda.stream(self._stream):
                there[1].copy_(there[0], non_blocking=True)
                compute()
                back[0].copy_(back[1], non_blocking=True)
            self._stream.synchronize()


@cache
def _work(device: torch.device) -> _Work:
    """Return what all cores of this process share: one in another precision, that of a test."""
    return _Work(device)


class _Size:
    """The memory of batches of one size, here and on the device, and how one is computed."""

    def __init__(
        self, block: Block, cases: int, width: int, compute: DeviceBatch, work: _Work, pool: Any
    ) -> None:
        k, self._work = min(width, MAX_K), work
        self._there, self._back = work.pair(block.size), work.pair(cases * (8 * k + 1))
        self.columns: Columns = block.arrays(self._there[0].numpy())
        """Where a batch is written to"""
        given, answer = block.tensors(self._there[1]), _parts(self._back[1], cases, k)

        @torch.inference_mode()
        def whole() -> None:
            for part, found in zip(answer, compute(given, k), strict=True):
                part.copy_(found)

        self._compute = work.captured(whole, pool)
        self.places, self.scores, self.refused = (
            part.numpy() for part in _parts(self._back[0], cases, k)
        )

    def run(self) -> None:
        """Compute the batch that was written."""
        self._work.run(self._there, self._compute, self._back)


def _parts(memory: Tensor, cases: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return places (B, k) int32, scores (B, k) float32 and refusals (B,) over a block."""
    size = 4 * cases * k
    places, scores, refused = torch.split(memory, [size, size, cases])
    return (
        places.view(torch.int32).view(cases, k),
        scores.view(torch.float32).view(cases, k),
        refused.view(torch.bool),
    )


def _next(sizes: Sequence[int], size: int) -> int:
    return next(one for one in sizes if one >= size)
