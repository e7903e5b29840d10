"""Makes the steps of two-tower training: which rows the item tower computes and who reads which.

All chance and all indices are made here, in NumPy, so that a GPU is never waited for.
"""

# B windows or bags, T positions, Q queries, P positives, C negatives, H hard ones, R item rows

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from corerec.engines.bags import bags, draw_users
from corerec.engines.sequences import Sequences
from corerec.engines.two_tower_config import TwoTowerConfig, TwoTowerFitConfig
from corerec.engines.two_tower_shape import TwoTowerShape
from corerec.engines.two_tower_step import Step
from corerec.engines.windows import Batch, batches, cut
from corerec.engines.workers import ALONE, Worker
from corerec.features import context_features
from corerec.stages import Int64s


@dataclass(frozen=True, kw_only=True)
class _Queries:
    """Queries and positives of a step before negatives are drawn; names as in `Step`."""

    users: Int64s
    token_items: Int64s
    at: Int64s
    shares: NDArray[np.float32]
    length: int
    query_user: Int64s
    context: NDArray[np.float32]
    targets: Int64s
    owner: Int64s
    weight: float
    everyone: Int64s | None
    """Positives of all workers, which negatives are drawn from; None where there is one."""

    @property
    def target_users(self) -> Int64s:
        """(P,) user row of each positive."""
        place = self.owner if len(self.owner) else self.query_user
        return self.users[place] - 1


class Steps:
    """Draws the steps of an epoch; the same generator draws the same steps."""

    def __init__(
        self,
        sequences: Sequences,
        config: TwoTowerConfig,
        shape: TwoTowerShape,
        fit: TwoTowerFitConfig,
        worker: Worker = ALONE,
    ) -> None:
        self.sequences, self.config, self.shape, self.fit = sequences, config, shape, fit
        self.worker = worker
        self.is_full = fit.loss == "info_nce" and shape.items < fit.full_softmax_below
        # Sorted pairs of user and item, to know a negative that is none.
        self._known = _pairs(sequences) if fit.loss != "info_nce" else None

    def epoch(
        self, limit: int, rng: np.random.Generator, hard: NDArray[np.int32] | None
    ) -> tuple[int, Iterator[Step]]:
        """Return how many steps an epoch of at most `limit` events has, and the steps.

        Shapes: hard (U, pool) item numbers of each user row's hard negatives, -1 where absent.
        """
        if self.config.history == "attention":
            windows = cut(self.sequences, self.config.history_length, limit, rng)
            count = math.ceil(len(windows) / self.fit.batch_windows)
            # Batches are drawn as all workers draw them, what is in them as each does.
            shared, rng = rng, self.worker.generator(rng)
            batch_stream = batches(
                self.sequences,
                windows,
                self.fit.batch_windows,
                self.shape.items,
                shared,
                self.worker,
            )
            drawn: Iterator[_Queries] = map(self._of_windows, batch_stream)
        else:
            users = draw_users(self.sequences, limit, rng)
            count = math.ceil(len(users) / self.fit.batch_users)
            rng = self.worker.generator(rng)
            drawn = self._of_bags(users, rng)
        return count, (self._step(queries, rng, hard) for queries in drawn)

    def _of_windows(self, batch: Batch) -> _Queries:
        at = np.flatnonzero(batch.valid)  # (Q,)
        length = batch.valid.shape[1]
        context = np.empty((0, 0), np.float32)
        if self.shape.has_times:
            context = context_features(batch.times.reshape(-1)[at])
        return _Queries(
            users=batch.user + 1,
            token_items=batch.tokens.reshape(-1)[at],
            at=at,
            shares=np.empty(0, np.float32),
            length=length,
            query_user=at // length,
            context=context,
            targets=batch.targets.reshape(-1)[at],
            owner=np.empty(0, np.int64),
            weight=batch.weight,
            everyone=batch.everyone,
        )

    def _of_bags(self, users: Int64s, rng: np.random.Generator) -> Iterator[_Queries]:
        none = self.config.history == "none"
        for drawn in bags(
            self.sequences,
            users,
            self.fit.batch_users,
            dropout=self.config.bag_dropout,
            most=0 if none else self.config.history_length,
            rng=rng,
            worker=self.worker,
        ):
            row, items = drawn.row[drawn.shown], drawn.items[drawn.shown]
            sizes = np.bincount(row, minlength=len(drawn.user))
            empty = np.flatnonzero(sizes == 0)  # the start token stands for nothing
            yield _Queries(
                users=drawn.user + 1,
                token_items=np.append(items, np.full(len(empty), self.shape.items)),
                at=np.append(row, empty),
                shares=np.append(1 / sizes[row], np.ones(len(empty))).astype(np.float32),
                length=0,
                query_user=np.empty(0, np.int64),
                context=np.empty((0, 0), np.float32),
                targets=drawn.items,
                owner=drawn.row,
                weight=drawn.weight,
                everyone=drawn.everyone,
            )

    def _step(
        self, queries: _Queries, rng: np.random.Generator, hard: NDArray[np.int32] | None
    ) -> Step:
        targets, count = queries.targets, self.shape.items
        shared, each = np.empty(0, np.int64), np.empty((0, 0), np.int64)
        kept = np.empty((0, 0), np.bool_)
        if self._known is not None:
            each, kept = self._each(queries, rng)
        elif not self.is_full:
            pool = targets if queries.everyone is None else queries.everyone
            drawn = rng.permutation(len(pool))[: self.fit.batch_negatives]
            uniform = rng.integers(0, count, self.fit.uniform_negatives)
            shared = np.concatenate([pool[drawn], uniform])
        chosen = self._hard(queries, rng, hard)
        parts = [queries.token_items, targets, shared, each.reshape(-1), chosen.reshape(-1)]
        if self.is_full:
            # All of the catalogue in its order: an item's place is its number.
            rows, places = np.arange(count + 1), parts
        else:
            rows, inverse = np.unique(np.concatenate(parts), return_inverse=True)
            places = np.split(inverse, np.cumsum([len(part) for part in parts])[:-1])
            # -1, an absent hard negative, is no row.
            gone = int(rows[0] < 0)
            rows = rows[gone:]
            places = [place - gone for place in places]
        tensor = torch.from_numpy
        return Step(
            rows=tensor(rows),
            users=tensor(queries.users),
            tokens=tensor(places[0]),
            at=tensor(queries.at),
            shares=tensor(queries.shares),
            query_user=tensor(queries.query_user),
            context=tensor(queries.context),
            targets=tensor(targets),
            right=tensor(places[1]),
            owner=tensor(queries.owner),
            negatives=tensor(places[2]),
            negative_items=tensor(shared),
            each=tensor(places[3].reshape(each.shape)),
            each_kept=tensor(kept),
            hard=tensor(places[4].reshape(chosen.shape)),
            length=queries.length,
            weight=queries.weight,
        )

    def _each(
        self, queries: _Queries, rng: np.random.Generator
    ) -> tuple[Int64s, NDArray[np.bool_]]:
        """Return (P, n) random items for each positive, and which the user has never had."""
        shape = (len(queries.targets), self.fit.negatives)
        users = np.broadcast_to(queries.target_users[:, None], shape)
        drawn = rng.integers(0, self.shape.items, shape)
        taken = self._has(users, drawn)
        for _ in range(3):  # a user with nearly everything is not worth more draws
            if not taken.any():
                break
            drawn[taken] = rng.integers(0, self.shape.items, int(taken.sum()))
            taken[taken] = self._has(users[taken], drawn[taken])
        return drawn, ~taken

    def _has(self, users: Int64s, items: Int64s) -> NDArray[np.bool_]:
        """Return whether each user has had each item in training."""
        known = self._known if self._known is not None else np.empty(0, np.int64)
        wanted = users * self.shape.items + items
        place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        found: NDArray[np.bool_] = known[place] == wanted
        return found

    def _hard(
        self, queries: _Queries, rng: np.random.Generator, hard: NDArray[np.int32] | None
    ) -> Int64s:
        """Return (Q, H) hard negatives, drawn from those of each query's user."""
        if hard is None or not self.fit.hard_negatives:
            return np.empty((0, 0), np.int64)
        users = queries.users - 1
        if len(queries.query_user):
            users = users[queries.query_user]
        places = rng.integers(0, hard.shape[1], (len(users), self.fit.hard_negatives))
        return hard[users[:, None], places].astype(np.int64)


def _pairs(sequences: Sequences) -> Int64s:
    """Return the sorted pairs of user row and item, as one number each."""
    pairs: Int64s = np.sort(sequences.users * sequences.item_count + sequences.items)
    return pairs
