"""The two data sets of the leave-one-out protocol: the last event is the test, the one before it
the validation, all before those the training."""

from __future__ import annotations

import gzip
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from ml1m_data import shared_data

from corerec.engines.sequences import Sequences


@dataclass(frozen=True)
class LeaveOneOut:
    """All users' events; every user has at least three."""

    events: Sequences

    def before(self, count: int) -> Sequences:
        """Return the events without each user's last `count`."""
        users, ends = self.events.users, self.events.offsets[1:]
        kept = np.arange(len(users)) < ends[users] - count
        return self._of(users[kept], self.events.items[kept])

    def right(self, back: int) -> Sequences:
        """Return one event a user: the last is 1, the one before it 2."""
        at = self.events.offsets[1:] - back
        return self._of(np.arange(self.events.user_count), self.events.items[at])

    def _of(self, users: np.ndarray, items: np.ndarray) -> Sequences:
        counts = {"user_count": self.events.user_count, "item_count": self.events.item_count}
        return Sequences.of(users, items, **counts)


def ml1m() -> LeaveOneOut:
    """Return ml-1m in the SASRec and BERT4Rec papers' order: 6,040 users, 3,416 items."""
    with gzip.open(shared_data() / "ml-1m/sasrec/ml-1m.txt.gz") as file:
        table = np.loadtxt(file, dtype=np.int64)
    return LeaveOneOut(Sequences.of(table[:, 0] - 1, table[:, 1] - 1))


def beauty() -> LeaveOneOut:
    """Return S3-Rec's Amazon Beauty: 22,363 users, 12,101 items."""
    with gzip.open(shared_data() / "amazon-beauty/Beauty.txt.gz") as file:
        lines = [np.array(line.split(), np.int64) for line in file]
    users = np.repeat(np.arange(len(lines)), [len(line) - 1 for line in lines])
    return LeaveOneOut(Sequences.of(users, np.concatenate([line[1:] for line in lines]) - 1))
