"""Makes the batch that serving asks BERT4Rec with: users' histories and a mask after each."""

# B users, X events of the longest history

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from corerec.engines.bert4rec_batch import Batch, Bools, gap_of, hour_of
from corerec.stages import Int64s, UserContext


def query(
    users: Sequence[UserContext],
    item_count: int,
    max_len: int,
    end: int | None,
    both_ways: bool = True,
) -> Batch:
    """Return a batch that asks for what comes after each user's known history; targets are 0.

    The events see each other (only earlier ones without `both_ways`), the mask after them sees
    them and itself. `end` stands for a `now` of 0; without it times are not read.
    """
    kept = [((user.items >= 0) & (user.items < item_count)) for user in users]
    histories = [user.items[own][-(max_len - 1) :] for user, own in zip(users, kept, strict=True)]
    length = np.array([len(items) for items in histories], np.int64)
    count = int(length.max(initial=0))
    place = np.arange(count)
    valid = place < length[:, None]  # (B, X)
    items = np.full((len(users), count + 1), item_count)
    items[:, :count][valid] = np.concatenate([*histories, np.empty(0, np.int64)])
    places = np.where(valid, place + (max_len - 1 - length)[:, None], 0)
    ends = np.full((len(users), 1), max_len - 1)
    hours = gaps = None
    if end is not None:
        hours, gaps = _moments(users, kept, valid, end)
    allowed = np.zeros((len(users), count + 1, count + 1), np.bool_)
    allowed[:, :, :count] = valid[:, None]
    if not both_ways:
        allowed[:, :count, :count] &= place[:, None] >= place
    allowed[:, np.arange(count + 1), np.arange(count + 1)] = True
    return Batch(
        items=items,
        places=np.concatenate([places, ends], 1),
        hours=hours,
        gaps=gaps,
        allowed=allowed[:, None],
        asked=np.full((len(users), 1), count),
        kept=np.arange(len(users)),
        targets=np.zeros(len(users), np.int64),
    )


def _moments(
    users: Sequence[UserContext], kept: Sequence[Bools], valid: Bools, end: int
) -> tuple[Int64s, Int64s]:
    """Return hours and gaps (B, X + 1); 0 where a history has no times."""
    hours = np.zeros((len(users), valid.shape[1] + 1), np.int64)
    gaps = np.zeros_like(hours)
    for row, (user, own) in enumerate(zip(users, kept, strict=True)):
        now = user.now or end
        hours[row, -1] = hour_of(np.array([now]))[0]
        count = int(valid[row].sum())
        if len(user.times) != len(user.items) or not count:
            continue
        times = user.times[own]
        found = gap_of(np.diff(times, prepend=times[0], append=now)).astype(np.int64)
        if len(times) == count:
            found[0] = 0  # what came before a first event is not known
        hours[row, :count] = hour_of(times[-count:])
        gaps[row, :count], gaps[row, -1] = found[-count - 1 : -1], found[-1]
    return hours, gaps
