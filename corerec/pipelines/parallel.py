"""What a training may hand to several processes; `corerec.distributed` does it with Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from corerec.engines.protocols import Report
from corerec.pipelines.config import TrainConfig
from corerec.retrieval.index import ItemIndex
from corerec.stages import Float32s


class Parallel(Protocol):
    """The parts of a training that several processes share; the rest of it stays as it is."""

    def train_tower(
        self, data: Path, config: TrainConfig, checkpoint: Path, report: Report
    ) -> None:
        """Train the two-tower of a data set folder, until the checkpoint holds all of it."""
        ...

    def train_ranker(self, arguments: Mapping[str, Any], checkpoint: Path, report: Report) -> None:
        """Train the ranker, until the checkpoint holds all of it.

        `arguments` are those of `corerec.ranking.train.train_ranker`, by name.
        """
        ...

    def embed_items(self, model: Path, kind: str, shards: Path, report: Report) -> Float32s:
        """Return (N, D) of a saved model and leave them as shards in a folder."""
        ...

    def build_index(
        self, shards: Path, config: TrainConfig, queries: Float32s, report: Report
    ) -> tuple[ItemIndex, Sequence[Path]]:
        """Return the index of the vectors in shards, and the folders of its parts.

        There are as many as `config.index.shards`, none for 1.
        """
        ...
