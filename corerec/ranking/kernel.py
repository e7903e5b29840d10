"""CpuKernel: a folded DCN-v2 on a CPU, a compiled call a batch, in memory kept between calls."""

# B requests, n candidates, Du, Di, Dp inputs of user, item and comparison, T tasks

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numba import types
from torch import Tensor

from corerec.engines.compiled import compiled
from corerec.engines.memory import roomy
from corerec.ranking.codes import encode, width_of
from corerec.ranking.fold import Fold
from corerec.ranking.frozen import Frozen, array, bundle, thaw
from corerec.ranking.layout import Packed, bits, lay_out, up
from corerec.ranking.loops_bf16 import HalfArena, run_bf16
from corerec.ranking.loops_fp32 import ROWS, Arena, Part, run_fp32
from corerec.ranking.machine import LANES, MR
from corerec.ranking.precision import Precision
from corerec.ranking.tiles import has_amx
from corerec.stages import Float32s, Int64s

_F1, _F2, _L2 = array(types.float32, 1), array(types.float32, 2), array(types.int64, 2)
_H1, _H2, _B1 = array(types.uint16, 1), array(types.uint16, 2), array(types.uint8, 1)
_WHOLE = bundle(
    bundle(_L2, _F1, _F2, _F1, _F1, _F2, types.int64, types.boolean, of=Packed),
    bundle(_F2, _F2, _F1, _F1, _F1, _F2, types.int64, of=Arena),
)
_HALF = bundle(
    bundle(_L2, _H1, _F2, _F1, _F1, _H2, types.int64, types.boolean, of=Packed),
    bundle(_H2, _H1, _F1, _H1, _F2, _F1, _F1, _F2, _B1, types.int64, of=HalfArena),
)
"""What stays the same between a thread's calls."""


@compiled
def _run_fp32(
    fixed: Any, users: Any, table: Any, candidates: Any, pairs: Any, out: Any, first: int,
    last: int, begin: int, end: int,
) -> None:  # fmt: skip
    """Do as `run_fp32` with what was frozen at an address, and a part by its numbers."""
    packed, arena = thaw(fixed, _WHOLE)
    run_fp32(packed, arena, users, table, candidates, pairs, out, Part(first, last, begin, end))


@compiled
def _run_bf16(
    fixed: Any, users: Any, table: Any, candidates: Any, pairs: Any, out: Any, first: int,
    last: int, begin: int, end: int,
) -> None:  # fmt: skip
    """Do as `run_bf16` with what was frozen at an address, and a part by its numbers."""
    packed, arena = thaw(fixed, _HALF)
    run_bf16(packed, arena, users, table, candidates, pairs, out, Part(first, last, begin, end))


def precision_here(precision: Precision) -> Precision:
    """Return what the kernel has on this processor: bf16 needs matrix tiles (AMX)."""
    return "fp32" if precision == "bf16" and not has_amx() else precision


class CpuKernel:
    """Scores pairs by a fold's steps. Threads share it: each has memory of its own."""

    def __init__(self, fold: Fold, items: int, precision: Precision, threads: int = 0) -> None:
        """Pack a fold whose pairs' inputs begin with `items` of the item.

        int8 is how the item's inputs are kept: products are in bfloat16, where there are tiles.
        A batch is computed by so many threads, by default as many as torch takes.
        """
        self.precision = precision_here(precision)
        self._small = self.precision == "int8"
        self._half = self.precision == "bf16" or (self._small and has_amx())
        self._layout = lay_out(fold, half=self._half)
        self._items, self._pairs = items, fold.wide - items
        self._local = threading.local()
        self._threads = threads or torch.get_num_threads()
        # The calling thread computes too.
        self._pool = ThreadPoolExecutor(self._threads - 1, "ranker") if self._threads > 1 else None

    def table(self, rows: int) -> Tensor:
        """Return room for the inputs of so many items, as the kernel reads them."""
        if self._small:
            return roomy((rows, width_of(self._items)), torch.int8, torch.device("cpu"))
        if self._half:
            return roomy((rows, up(self._items, 16)), torch.bfloat16, torch.device("cpu"))
        return roomy((rows, self._items), torch.float32, torch.device("cpu"))

    def items(self, inputs: Tensor) -> Tensor:
        """Return what the table holds of items: their inputs (m, Di), or codes of them."""
        return encode(inputs) if self._small else inputs

    def __call__(self, user: Tensor, table: Tensor, candidates: Tensor, pairs: Tensor) -> Tensor:
        """Return logits (T, B, n).

        Shapes: user (B, Du); table as from `table`, filled; candidates (B, n) int64 rows of it;
        pairs (Dp, B, n). All contiguous, on the CPU.
        """
        given = [bits(t.contiguous()) for t in (user, table, candidates, pairs)]
        return torch.from_numpy(self.score(*given))

    def score(self, user: Float32s, table: Any, candidates: Int64s, pairs: Float32s) -> Float32s:
        """Return logits (T, B, n) of arrays as the call above takes tensors; bfloat16 as uint16."""
        cases, count = candidates.shape
        out = np.empty((self._layout.tasks, cases, count), np.float32)
        given = user, table, candidates, pairs, out
        own, *others = self._parts(cases, count)
        waiting = [self._pool.submit(self._run, given, part) for part in others if self._pool]
        self._run(given, own)
        for other in waiting:
            other.result()
        return out

    def _run(self, given: tuple[Any, ...], part: Part) -> None:
        run: Any = _run_bf16 if self._half else _run_fp32
        run(self._frozen().address, *given, *part)

    def _frozen(self) -> Frozen:
        """Return what the calling thread's loops read, where they find it."""
        found: Frozen | None = getattr(self._local, "frozen", None)
        if found is None:
            kind = _HALF if self._half else _WHOLE
            found = self._local.frozen = Frozen(self.memory(), kind)
        return found

    def _parts(self, cases: int, count: int) -> Iterator[Part]:
        """Yield what each thread computes: whole requests, of a lone one its candidates."""
        size = cases if cases > 1 else -(-count // ROWS)
        threads = max(1, min(self._threads, size))
        ends = [size * place // threads for place in range(threads + 1)]
        for first, last in pairwise(ends):
            if cases > 1:
                yield Part(first, last, 0, count)
            else:
                yield Part(0, cases, first * ROWS, min(count, last * ROWS))

    def memory(self) -> tuple[Packed, Any]:
        """Return what the loops read and the calling thread's arena, to measure them alone."""
        return self._layout.packed, self._arena()

    def _arena(self) -> Arena | HalfArena:
        if not hasattr(self._local, "arena"):
            self._local.arena = self._half_memory() if self._half else self._memory()
        found: Arena | HalfArena = self._local.arena
        return found

    def _memory(self) -> Arena:
        layout, packed = self._layout, self._layout.packed
        users = packed.u_user.shape[1]
        return Arena(
            rows=_zeros(ROWS + MR, up(layout.width, 16)),
            sums=_zeros(ROWS + MR, up(self._items + self._pairs, 2 * LANES)),
            request=_zeros(layout.request + LANES),
            biases=_zeros(len(packed.biases) + 2 * LANES)[: len(packed.biases)],
            scaled=_zeros(2 * LANES * max(users, 1)),
            scratch=_zeros(MR, 2 * LANES),
            items=self._items,
        )

    def _half_memory(self) -> HalfArena:
        layout, packed = self._layout, self._layout.packed
        users, width = packed.u_user.shape[1], up(layout.width, 32)
        config = np.zeros(64, np.uint8)
        config[0] = 1  # the palette
        config[16:32:2], config[48:56] = 64, 16
        # A stride of a power of two would put the same columns of all rows into few cache sets.
        lines = width // 32
        return HalfArena(
            rows=bits(torch.zeros(ROWS, 32 * (lines | 1), dtype=torch.bfloat16)),
            request=bits(torch.zeros(layout.request + 32, dtype=torch.bfloat16)),
            biases=_zeros(len(packed.biases) + 32)[: len(packed.biases)],
            scaled=bits(torch.zeros(16 * max(users, 32), dtype=torch.bfloat16)),
            scratch=_zeros(32, 32),
            sums=_zeros(ROWS * up(self._items + self._pairs, 32) if packed.keeps else 1),
            user=_zeros(max(users, 1)),
            stage=_zeros(ROWS, up(self._pairs, 16)),
            config=config,
            items=self._items,
        )


def _zeros(*shape: int) -> Float32s:
    """Return zeros that begin at a cache line, as torch's do."""
    found: Float32s = bits(torch.zeros(*shape))
    return found
