"""Builds an ItemIndex from shards of vectors: lists learned once, filled shard by shard, merged."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corerec.distributed.embed import run_blocks
from corerec.distributed.shards import Shards
from corerec.errors import InvalidArgument
from corerec.retrieval.build import build_index, finish_index, spec_for, training_rows
from corerec.retrieval.index import IndexConfig, IndexInfo, ItemIndex
from corerec.retrieval.stores.int8 import Int8Store
from corerec.retrieval.stores.spec import IndexSpec
from corerec.stages import Float32s

_CENTRES = "centres.npy"


def build_sharded_index(
    shards: Shards,
    work: Path,
    *,
    config: IndexConfig | None = None,
    queries: Float32s | None = None,
    seed: int = 0,
    workers: int = 2,
    report: Callable[[int, int, str], None] | None = None,
    address: str | None = None,
) -> ItemIndex:
    """Return the index that `build_index` builds of all shards' vectors, filled in parallel.

    The centres of the lists are learned once, on the same sample; each worker files the vectors of
    a shard under them; the parts are merged in the order of item numbers. Catalogues below
    `flat_below` are scanned exactly and need no workers. Filled parts are kept in `work`, and what
    a run before this one filled is not filled again; `work` is removed at the end.

    Raises:
        InvalidArgument: when workers is below 1.
        FailedPrecondition: when shards are missing.
    """
    if workers < 1:
        raise InvalidArgument(f"workers must be at least 1, got {workers}")
    config, info = config or IndexConfig(), shards.info
    if info.count < config.flat_below:
        return build_index(
            shards.whole(), model_id=info.model_id, config=config, queries=queries, seed=seed
        )
    work = work.resolve() / f"lists-{_identity(shards, config, seed)}"
    work.mkdir(parents=True, exist_ok=True)
    if not (work / _CENTRES).exists():
        spec = spec_for(info.count, config, seed)
        store = Int8Store(info.dim, "ip", spec)
        store.train(shards.take(training_rows(spec, info.count)), info.count)
        _write(work / _CENTRES, store.centres)
    missing = [start for start in shards.starts() if not _part(work, start).exists()]
    if missing:
        run_blocks(
            missing,
            partial(_fill, str(shards.folder), str(work)),
            workers=workers,
            report=report,
            note="parts of the index",
            address=address,
        )
    index = _merged(shards, work, config, queries, seed)
    shutil.rmtree(work.parent)
    return index


def _fill(shards: str, work: str, start: int) -> None:
    """Find the lists of the vectors of one shard. Runs in a worker."""
    vectors = np.ascontiguousarray(Shards.open(Path(shards)).read(start))
    store = Int8Store.of_centres(np.load(Path(work) / _CENTRES), "ip", IndexSpec())
    _write(_part(Path(work), start), store.assign(vectors))


def _write(path: Path, array: NDArray[Any]) -> None:
    """Write an array so that its file is whole or absent."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.npy")
    np.save(fresh, array, allow_pickle=False)
    fresh.replace(path)


def _merged(
    shards: Shards, work: Path, config: IndexConfig, queries: Float32s | None, seed: int
) -> ItemIndex:
    info = shards.info
    vectors = shards.whole()
    spec = spec_for(info.count, config, seed)
    store = Int8Store.of_centres(np.load(work / _CENTRES), "ip", spec, given=vectors)
    home = np.concatenate([np.load(_part(work, start)) for start in sorted(shards.starts())])
    store.add(np.arange(info.count, dtype=np.int64), vectors, home)
    return finish_index(
        store,
        vectors,
        np.arange(info.count, dtype=np.int64),
        IndexInfo(
            kind=spec.kind,
            dim=info.dim,
            count=info.count,
            model_id=info.model_id,
            recall_at=config.recall_at,
        ),
        config,
        queries,
        spec,
    )


def _part(work: Path, start: int) -> Path:
    return work / f"part-{start:012d}.npy"


def _identity(shards: Shards, config: IndexConfig, seed: int) -> str:
    values = json.dumps([asdict(shards.info), asdict(config), seed], sort_keys=True)
    return hashlib.sha256(values.encode()).hexdigest()[:12]
