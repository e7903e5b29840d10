"""Builds an ItemIndex from shards of vectors: lists learned once, filled shard by shard, merged."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from corerec.distributed.embed import run_blocks
from corerec.distributed.shards import Shards
from corerec.errors import InvalidArgument
from corerec.retrieval.build import build_index, finish_index, spec_for, training_rows
from corerec.retrieval.index import IndexConfig, IndexInfo, ItemIndex
from corerec.retrieval.stores.lists import ListsStore
from corerec.retrieval.stores.probing import train_index
from corerec.stages import Float32s


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
    empty = work / "empty.faiss"
    if not empty.exists():
        spec = spec_for(info.count, config, seed)
        sample = shards.take(training_rows(spec, info.count))
        nlist = min(spec.lists_for(info.count), len(sample))
        _write_index(train_index(sample, replace(spec, nlist=nlist), "ip"), empty)
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
    """File the vectors of one shard under the lists. Runs in a worker."""
    faiss.omp_set_num_threads(1)  # as many workers as cores
    vectors = np.ascontiguousarray(Shards.open(Path(shards)).read(start))
    part: Any = faiss.read_index(str(Path(work) / "empty.faiss"))
    part.add_with_ids(vectors, np.arange(start, start + len(vectors)))
    _write_index(part, _part(Path(work), start))


def _write_index(index: Any, path: Path) -> None:
    """Write a FAISS index so that its file is whole or absent."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    faiss.write_index(index, str(fresh))
    fresh.replace(path)


def _merged(
    shards: Shards, work: Path, config: IndexConfig, queries: Float32s | None, seed: int
) -> ItemIndex:
    info = shards.info
    inner: Any = faiss.read_index(str(work / "empty.faiss"))
    for start in shards.starts():
        part: Any = faiss.read_index(str(_part(work, start)))
        inner.merge_from(part, 0)  # its vectors bring their own numbers
    vectors = shards.whole()
    spec = spec_for(info.count, config, seed)
    store = ListsStore(info.dim, "ip", spec, given=vectors)
    store.adopt(inner)
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
    return work / f"part-{start:012d}.faiss"


def _identity(shards: Shards, config: IndexConfig, seed: int) -> str:
    values = json.dumps([asdict(shards.info), asdict(config), seed], sort_keys=True)
    return hashlib.sha256(values.encode()).hexdigest()[:12]
