"""Cuts users' sequences into training windows, vectorised: every (prefix, next item) is in one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from corerec.engines.sequences import Sequences
from corerec.engines.workers import ALONE, Worker
from corerec.errors import InvalidArgument
from corerec.stages import Int64s


@dataclass(frozen=True)
class Windows:
    """Slices of sequences: the targets of one window are events first..first + length."""

    user: Int64s  # (W,) user row
    first: Int64s  # (W,) index of the first target in Sequences.items
    length: Int64s  # (W,) number of targets, 1..T

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Batch:
    """Windows as matrices; padding is at the end of each row."""

    user: Int64s  # (B,) user row
    tokens: Int64s  # (B, T) item before each target; the start token where there is none
    targets: Int64s  # (B, T) next item
    times: Int64s  # (B, T) time of the target
    valid: np.ndarray[tuple[int, int], np.dtype[np.bool_]]  # (B, T)
    weight: float = 1.0  # of the mean over this worker's targets, 1 where it has all of them
    everyone: Int64s | None = None  # targets of all workers, where there are several


def cut(sequences: Sequences, length: int, limit: int, rng: np.random.Generator) -> Windows:
    """Return windows of at most `length` targets that cover every event once.

    Windows of a long sequence begin at random places. Where the targets are more than `limit`,
    windows are drawn at random until their targets reach it.
    """
    if not len(sequences.items):
        raise InvalidArgument("training needs at least one interaction, got 0")
    counts = np.diff(sequences.offsets)
    pieces = -(-counts // length)  # windows of each user
    slack = pieces * length - counts
    shift = rng.integers(0, slack + 1)
    user = np.repeat(np.arange(len(counts)), pieces)
    piece = np.arange(len(user)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    begin = np.maximum(piece * length - shift[user], 0)
    end = np.minimum((piece + 1) * length - shift[user], counts[user])
    kept = np.flatnonzero(end > begin)
    if int(counts.sum()) > limit:
        kept = rng.permutation(kept)
        total = np.cumsum((end - begin)[kept])
        kept = kept[: max(1, int(np.searchsorted(total, limit, side="right")))]
    return Windows(
        user=user[kept],
        first=sequences.offsets[user[kept]] + begin[kept],
        length=(end - begin)[kept],
    )


def batches(
    sequences: Sequences,
    windows: Windows,
    size: int,
    start_token: int,
    rng: np.random.Generator,
    worker: Worker = ALONE,
) -> Iterator[Batch]:
    """Yield all windows in batches of `size`, those of like length together, in random order.

    Of several workers each gets its rows of every batch, the batches being the same.
    """
    order = rng.permutation(len(windows))
    # Sorting inside large random groups keeps padding low and batches random.
    group = size * 16
    parts = [order[i : i + group] for i in range(0, len(order), group)]
    order = np.concatenate(
        [part[np.argsort(windows.length[part], kind="stable")] for part in parts]
    )
    starts = np.arange(0, len(order), size)
    for begin in rng.permutation(starts):
        rows = order[begin : begin + size]
        own = rows[worker.rows(len(rows))]
        weight = worker.weight(int(windows.length[own].sum()), int(windows.length[rows].sum()))
        batch = _gather(sequences, windows, own, start_token, weight)
        if worker.count > 1:
            length = windows.length[rows]
            begin = np.cumsum(length) - length
            at = np.arange(int(length.sum())) + np.repeat(windows.first[rows] - begin, length)
            batch = replace(batch, everyone=sequences.items[at])
        yield batch


def _gather(
    sequences: Sequences, windows: Windows, rows: Int64s, start_token: int, weight: float
) -> Batch:
    length = windows.length[rows]
    place = np.arange(int(length.max()))
    valid = place < length[:, None]  # (B, T)
    at = windows.first[rows][:, None] + np.where(valid, place, 0)
    user = windows.user[rows]
    is_start = at == sequences.offsets[user][:, None]
    tokens = np.where(is_start, start_token, sequences.items[np.maximum(at - 1, 0)])
    return Batch(
        user=user,
        tokens=tokens,
        targets=sequences.items[at],
        times=sequences.times[at],
        valid=valid,
        weight=weight,
    )
