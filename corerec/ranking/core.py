"""RankingCore: ranks the candidates of many requests as one matrix, over one release."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from corerec.engines.device import choose_device
from corerec.engines.memory import moved
from corerec.errors import CoreRecError, InvalidArgument, Unavailable
from corerec.features import FeatureSchema, ItemFeatures, PopularitySnapshot, UserIndex
from corerec.live.content import ContentSide
from corerec.live.numbers import LiveRows
from corerec.live.snapshot import read_snapshot
from corerec.ranking.batches import Batches, HostBatches
from corerec.ranking.check import check_candidates, check_columns, check_user
from corerec.ranking.files import load_ranker
from corerec.ranking.folded import PlainRanker, precisions_of, serving_form
from corerec.ranking.gate import choose_precision
from corerec.ranking.graphs import DeviceBatches
from corerec.ranking.instructions import instructions_of, suits
from corerec.ranking.live import LiveItems
from corerec.ranking.precision import Precision, Ranker
from corerec.ranking.tables import ItemTables
from corerec.ranking.transitions import TransitionTable
from corerec.release import OpenRelease
from corerec.stages import (
    MAX_K,
    Candidates,
    RankEntry,
    RankResult,
    Source,
    UserContext,
)
from corerec.store.catalogue import ItemChange

log = logging.getLogger(__name__)

ROOM = 1024
"""Later items that the tables have room for, besides a quarter of those of the training."""
WARM = (1, 2, 4, 8, 16, 32)
"""Sizes of the batches that a core is warmed with."""
MOST_PADDING = 1.25
"""Requests share a matrix when the longest has at most so many times the candidates of the
shortest."""


class RankingCore:
    """Scores candidates with the release's ranker; one of them a process, `run` in any thread.

    One batch is computed at a time, in memory that the next one uses again.
    """

    def __init__(
        self,
        release: str,
        ranker: Ranker,
        popularity: PopularitySnapshot,
        users: UserIndex,
        end_micros: int,
        content: ContentSide | None = None,
    ) -> None:
        """Take parts of one release; `load` reads them. `content` encodes items that change."""
        self._parts = popularity, users, end_micros, content
        self._release, self._ranker = release, ranker
        self._tables, self._end = ranker.tables, end_micros
        self._schema = ranker.tables.schema
        counts = np.stack([popularity.total, popularity.recent]).astype(np.float32)
        counts = np.pad(counts, ((0, 0), (0, 1)))
        rows = LiveRows(len(self._tables))
        form = HostBatches if self.device.type == "cpu" else DeviceBatches
        self._batches: Batches = form(ranker, rows, users, counts, end_micros)
        self._live = LiveItems(ranker, content, rows, self._batches.refresh)
        self._turn = threading.Lock()

    @classmethod
    def load(
        cls,
        release: OpenRelease,
        *,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        threads: int = 1,
        precision: Precision | Literal["auto"] = "auto",
    ) -> RankingCore:
        """Return the core of a release. Sets torch's threads for the whole process.

        Raises:
            ReleaseError: when a file is missing.
            InvalidArgument: when files do not fit each other, or there is no such device.
            FailedPrecondition: when the release's gate does not allow the precision.
        """
        on = choose_device(device)
        chosen = choose_precision(release, precision, instructions_of(on))
        torch.set_num_threads(threads)
        schema = FeatureSchema.load(release.file("schema.json"))
        tables = ItemTables.build(
            schema,
            ItemFeatures.load(release.file("item_features.safetensors")),
            load_file(release.file("item_vectors.safetensors"))["vectors"],
            TransitionTable.load(release.file("transitions.safetensors")),
            on,
            room=schema.item_count // 4 + ROOM,
        )
        model = load_ranker(schema, release.file("ranker.safetensors"), release.file("ranker.json"))
        if on.type == "cpu":
            # All of them, so that the file is let go of.
            weights = {name: moved(weight) for name, weight in model.state_dict().items()}
            model.load_state_dict(weights, assign=True)
        core = cls(
            release.id,
            serving_form(model, tables, chosen),
            PopularitySnapshot.load(release.file("popularity.safetensors")),
            UserIndex.read(release.file("users.parquet")),
            int(release.info.get("data_end_micros") or 0),
            ContentSide.load(release),
        )
        for changes in read_snapshot(release):
            core.apply(changes)
        return core

    def in_precision(self, precision: Precision) -> RankingCore:
        """Return a core over the same tables in another precision, whether it is allowed or not.

        It is for comparing the two: changes of the catalogue reach only the core that takes them.
        A machine without instructions for the precision computes it slowly, where serving would
        take fp32: what is found here is said of machines that have them.
        """
        if suits(precision, instructions_of(self.device)):
            ranker = serving_form(self._ranker.model, self._tables, precision)
        else:
            ranker = PlainRanker(self._ranker.model, self._tables, precision)
        return RankingCore(self._release, ranker, *self._parts)

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Those that `in_precision` takes.

        Codes of 8 bits are multiplied as bf16 where served, so they are not compared elsewhere.
        """
        here = instructions_of(self.device)
        known = precisions_of(self._ranker.model, self.device)
        return tuple(own for own in known if own != "int8" or suits(own, here))

    @property
    def release(self) -> str:
        """Id of the release that this core holds."""
        return self._release

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._tables.device

    @property
    def items(self) -> int:
        """Items of the training; those that came later are not counted."""
        return len(self._tables)

    @property
    def position(self) -> int:
        """Position of the newest change of the catalogue that was applied, 0 before any."""
        return self._live.position

    @property
    def counts(self) -> Mapping[str, int]:
        """Look-ups of kept users, by outcome."""
        return self._batches.counts

    def apply(self, changes: Sequence[ItemChange]) -> None:
        """Take changes of the catalogue, in the order of their positions with none left out.

        Deleted items can be ranked as before. A change that the models cannot read is logged and
        counted, and the item stays what it was.
        """
        self._live.apply(changes)

    def check(self, entry: RankEntry) -> None:
        """Raise InvalidArgument when the entry breaks a rule, in a few microseconds.

        What is true of the candidates one by one is looked at by `run`, as it reads them.
        """
        if not 1 <= entry.k <= MAX_K:
            raise InvalidArgument(f"k must be in [1, {MAX_K}], got {entry.k}")
        check_columns(entry.candidates)
        check_user(entry.user)
        if self._schema.user_numeric:
            self._schema.check_attributes(entry.user.attributes)

    def weight(self, entry: RankEntry) -> int:
        """Return how much of a batch an entry takes: its candidates."""
        return len(entry.candidates)

    def run(self, entries: Sequence[RankEntry]) -> Sequence[RankResult | CoreRecError]:
        """Rank every entry; a bad one gives an error in its place, its neighbours a result.

        No score depends on which entries share the call.
        """
        results: list[RankResult | CoreRecError | None] = [None] * len(entries)
        good = []
        for place, entry in enumerate(entries):
            try:
                self.check(entry)
            except InvalidArgument as error:
                results[place] = error
                continue
            if len(entry.candidates):
                good.append(place)
            else:
                results[place] = RankResult(
                    candidates=entry.candidates, timings={"features": 0, "score": 0}
                )
        for part in self._chunks(entries, good):
            with self._turn:
                found = self._rank([entries[place] for place in part])
            for place, result in zip(part, found, strict=True):
                results[place] = result
        return [result for result in results if result is not None]

    def warm(self) -> None:
        """Rank typical batches, so that the first real one is as fast as any."""
        count = min(500, self._schema.item_count)
        numbers = np.arange(count, dtype=np.int64)
        entry = RankEntry(
            user=UserContext(items=numbers[:20], times=np.full(len(numbers[:20]), self._end)),
            candidates=Candidates(
                numbers=numbers,
                scores=np.linspace(1, 0, count, dtype=np.float32),
                sources=np.full(count, Source.TWO_TOWER, np.uint8),
            ),
            k=100,
        )
        self._batches.warm()
        for size in WARM:
            self.run([entry] * size)

    def _chunks(self, entries: Sequence[RankEntry], good: list[int]) -> Iterator[list[int]]:
        """Yield places of entries of like length that together fit one matrix."""
        limit, sizes = self._batches, {place: len(entries[place].candidates) for place in good}
        part: list[int] = []
        for place in sorted(good, key=sizes.__getitem__, reverse=True):
            if part:
                widest = sizes[part[0]]
                full = (len(part) + 1) * widest > limit.pairs or len(part) == limit.most
                if full or widest > MOST_PADDING * sizes[place]:
                    yield part
                    part = []
            part.append(place)
        if part:
            yield part

    def _rank(self, entries: list[RankEntry]) -> list[RankResult | CoreRecError]:
        """Rank entries whose columns are right, as one matrix of B entries by n candidates."""
        found = self._batches.best(entries, max(entry.k for entry in entries))
        return [
            _refusal(entry)
            if refused
            else _result(entry, found.places[row], found.scores[row], found.timings)
            for row, (entry, refused) in enumerate(
                zip(entries, found.refused.tolist(), strict=True)
            )
        ]


def _refusal(entry: RankEntry) -> InvalidArgument:
    """Return the error of an entry whose candidates break a rule."""
    try:
        check_candidates(entry.candidates)
    except InvalidArgument as error:
        return error
    raise RuntimeError("candidates were refused that break no rule")


def _result(
    entry: RankEntry,
    order: NDArray[np.integer],
    found: NDArray[np.float32],
    timings: dict[str, int],
) -> RankResult | CoreRecError:
    wanted = min(entry.k, len(entry.candidates))
    order, found = order[:wanted], found[:wanted]
    if len(order) and order[-1] < 0:
        kept = int((order >= 0).sum())
        log.warning(
            "model gave no finite score for some candidates",
            extra={"request_id": entry.request_id, "kept": kept, "wanted": wanted},
        )
        if not kept:
            return Unavailable(f"no finite score for any of {len(entry.candidates)} candidates")
        order, found = order[:kept], found[:kept]
    own = entry.candidates
    return RankResult(
        candidates=Candidates(
            numbers=own.numbers.take(order), scores=found, sources=own.sources.take(order)
        ),
        timings=timings,
    )
