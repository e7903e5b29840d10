"""The parts of `corerec train --workers N` that Ray does, within one session."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from corerec.distributed.embed import ROWS, embed_items
from corerec.distributed.index import build_sharded_index
from corerec.distributed.session import ray_session
from corerec.distributed.shards import Shards
from corerec.distributed.train import WorkersConfig, fit_ranker, fit_tower
from corerec.engines.protocols import Report
from corerec.pipelines.config import TrainConfig
from corerec.retrieval.index import ItemIndex
from corerec.stages import Float32s


class RayParallel:
    """Trains, embeds and indexes over several processes. Use it in a `with` block.

    Ray starts with the block, or is connected to, and ends with it.
    """

    def __init__(self, config: WorkersConfig | None = None, *, rows: int = ROWS) -> None:
        """Use `config.workers` processes; vectors are kept in shards of `rows` items."""
        self.config, self._rows = config or WorkersConfig(), rows
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        cores = self.config.threads or len(os.sched_getaffinity(0))
        cpus = max(cores, self.config.workers)
        uses = ("train", "data")
        self._stack.enter_context(ray_session(cpus, address=self.config.address, uses=uses))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def train_tower(
        self, data: Path, config: TrainConfig, checkpoint: Path, report: Report
    ) -> None:
        """Train the two-tower of a data set folder, until the checkpoint holds all of it."""
        fit_tower(data, config, checkpoint, self.config, report)

    def train_ranker(self, arguments: Mapping[str, Any], checkpoint: Path, report: Report) -> None:
        """Train the ranker, until the checkpoint holds all of it."""
        fit_ranker(arguments, checkpoint, self.config, report)

    def embed_items(self, model: Path, kind: str, shards: Path, report: Report) -> Float32s:
        """Return (N, D) of a saved model and leave them as shards in a folder."""
        workers = self.config.workers
        found = embed_items(model, kind, shards, workers=workers, rows=self._rows, report=report)
        return found.whole()

    def build_index(
        self, shards: Path, config: TrainConfig, queries: Float32s, report: Report
    ) -> tuple[ItemIndex, Sequence[Path]]:
        """Return the index of the vectors in shards, and the folders of the parts for a release."""
        return build_sharded_index(
            Shards.open(shards),
            shards.with_suffix(".lists"),
            config=config.index,
            queries=queries,
            seed=config.seed,
            workers=self.config.workers,
            report=report,
        )
