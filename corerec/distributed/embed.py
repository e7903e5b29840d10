"""Embeds a catalogue in shards with Ray Data: every worker loads the saved model once."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from corerec.distributed.session import ray_session
from corerec.distributed.shards import Shards, ShardsInfo
from corerec.engines.files import load_model
from corerec.engines.two_tower_files import TwoTowerHeader
from corerec.engines.two_tower_inputs import TwoTowerInputs
from corerec.engines.two_tower_net import TwoTowerNet
from corerec.engines.two_tower_shape import ItemContent
from corerec.errors import InvalidArgument
from corerec.retrieval.sources import model_class, read_model_id
from corerec.stages import Float32s

ROWS = 65_536
"""Items of a shard: 32 MiB at 128 numbers."""


class ItemEncoder(Protocol):
    """What turns item numbers into vectors."""

    model_id: str
    count: int
    dim: int

    def encode(self, start: int, stop: int) -> Float32s:
        """Return the vectors (stop - start, D) of item numbers from start on."""
        ...


def load_item_encoder(folder: Path, kind: str) -> ItemEncoder:
    """Return the item side of a model that `save` wrote into a folder, on the CPU or a GPU.

    Raises:
        ReleaseError, ConfigError: when the folder does not hold such a model.
    """
    return _TowerItems(folder) if kind == "two_tower" else _TableItems(folder, kind)


def embed_items(
    model: Path,
    kind: str,
    out: Path,
    *,
    workers: int = 2,
    rows: int = ROWS,
    report: Callable[[int, int, str], None] | None = None,
    address: str | None = None,
) -> Shards:
    """Return the vectors of all items of a saved model, as shards of `rows` items in `out`.

    What `encode_items` gives, to the last bits (a product of other shapes may round otherwise).
    Shards that a run before this one finished, of the same weights, are not computed again.

    Raises:
        InvalidArgument: when workers or rows is below 1, or a vector is not finite.
        ReleaseError, ConfigError: when the folder does not hold such a model.
    """
    if workers < 1:
        raise InvalidArgument(f"workers must be at least 1, got {workers}")
    model, out = model.resolve(), out.resolve()
    encoder = load_item_encoder(model, kind)
    info = ShardsInfo(model_id=encoder.model_id, count=encoder.count, dim=encoder.dim, rows=rows)
    del encoder
    shards = Shards.begin(out, info)
    missing = shards.missing()
    if missing:
        run_blocks(
            missing,
            partial(_embed, str(model), kind, str(out)),
            workers=workers,
            report=report,
            note="shards of items",
            address=address,
        )
    return shards


def _embed(model: str, kind: str, out: str, start: int) -> None:
    """Write one shard. Runs in a worker, which keeps the model for its next shard."""
    shards = Shards.open(Path(out))
    encoder = _kept_encoder(model, kind, shards.info.model_id)
    shards.write(start, encoder.encode(start, shards.stop(start)))


@lru_cache(maxsize=1)
def _kept_encoder(model: str, kind: str, model_id: str) -> ItemEncoder:
    torch.set_num_threads(1)  # as many workers as cores
    return load_item_encoder(Path(model), kind)


def run_blocks(
    blocks: list[int],
    work: Callable[[int], None],
    *,
    workers: int,
    report: Callable[[int, int, str], None] | None,
    note: str,
    address: str | None,
) -> None:
    """Let workers do one block after another.

    `work` is called with the number that a block has in `blocks` and leaves files. What a worker
    that dies had under way is done again by another.
    """

    def one(batch: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
        for block in batch["block"].tolist():
            work(block)
        return batch

    count = min(workers, len(blocks))
    with ray_session(workers, address=address, uses=("data",)) as ray:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        rows = ray.data.from_items(
            [{"block": block} for block in blocks], override_num_blocks=len(blocks)
        )
        gpus = ray.cluster_resources().get("GPU", 0)
        done = rows.map_batches(
            one,
            batch_size=1,
            compute=ray.data.TaskPoolStrategy(size=count),
            num_cpus=1,
            num_gpus=min(1.0, gpus / count) if gpus else None,
        )
        for place, _ in enumerate(done.iter_rows(), 1):
            if report is not None:
                report(place, len(blocks), note)


class _TowerItems:
    """The item tower alone: no table of all items is made."""

    def __init__(self, folder: Path) -> None:
        header, tensors, self.model_id = load_model(folder, "two_tower", TwoTowerHeader)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        net = TwoTowerNet(header.config, header.shape, torch.Generator().manual_seed(0))
        net.load_state_dict(tensors)
        self._net = net.eval().to(self._device)
        self._content = ItemContent.of(TwoTowerInputs.load(folder).items, self._device)
        self.count, self.dim = header.shape.items, header.config.dim

    @torch.inference_mode()
    def encode(self, start: int, stop: int) -> Float32s:
        rows = torch.arange(start, stop, device=self._device)
        found: Float32s = (
            self._net.item_vectors(self._net.item(rows, self._content, None)).cpu().numpy()
        )
        return found


class _TableItems:
    """A model whose item vectors are its weights: they are read, not computed."""

    def __init__(self, folder: Path, kind: str) -> None:
        vectors = model_class(kind).load(folder).encode_items()
        self._vectors = np.ascontiguousarray(vectors, np.float32)
        self.model_id = read_model_id(folder / f"{kind}.json")
        self.count, self.dim = self._vectors.shape

    def encode(self, start: int, stop: int) -> Float32s:
        return self._vectors[start:stop]
