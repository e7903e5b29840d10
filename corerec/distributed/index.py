"""Builds an ItemIndex from shards of vectors in parts, each written by a worker, and joins them.

A part is what one shard of a deployment serves: the items of every S-th number, filed under centres
that all parts share, with their vectors. A release in S parts is made of these very files.
"""

# N items, D width, S parts

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from corerec.distributed.embed import run_blocks
from corerec.distributed.shards import Shards
from corerec.errors import InvalidArgument
from corerec.release.durable import sync_directory, sync_file
from corerec.retrieval.build import (
    build_index,
    create_store,
    finish_index,
    load_part,
    spec_for,
    training_rows,
)
from corerec.retrieval.index import IndexConfig, IndexInfo, ItemIndex
from corerec.retrieval.source_files import INDEX, INFO, mean_of, mean_step, write_part
from corerec.retrieval.stores.base import VectorStore
from corerec.retrieval.stores.int8 import Int8Store
from corerec.retrieval.stores.spec import IndexSpec
from corerec.stages import Float32s

_SHARED = "shared.safetensors"
"""What all parts share: `mean` (D,) of the items, and `centres` (L, D) of lists."""
_PART_ITEMS = 1 << 17
_MOST_PARTS = 16
"""An index that a release holds whole is built in parts of so many items, and at most so many."""


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
) -> tuple[ItemIndex, Sequence[Path]]:
    """Return the index that `build_index` builds of all shards' vectors, and its parts' folders.

    The centres of the lists are learned once, on the same sample; each worker gathers a part's
    vectors, files them under the centres and writes both, whole or not at all; then the parts are
    joined, and how far a search goes is chosen on all of them. Parts are kept in `work`, and what a
    run before this one wrote is not written again. For `config.shards` above 1 they are what the
    release will hold, and stay for `place_parts`; for 1 no folders are returned, `work` is removed
    at the end, and catalogues below `flat_below` need no workers.

    Raises:
        InvalidArgument: when workers is below 1.
        FailedPrecondition: when shards are missing.
    """
    if workers < 1:
        raise InvalidArgument(f"workers must be at least 1, got {workers}")
    config, info = config or IndexConfig(), shards.info
    if config.shards == 1 and info.count < config.flat_below:
        whole = build_index(
            shards.whole(), model_id=info.model_id, config=config, queries=queries, seed=seed
        )
        return whole, ()
    parts = config.shards
    if parts == 1:
        parts = min(_MOST_PARTS, max(1, info.count // _PART_ITEMS))
    spec = spec_for(info.count, config, seed)
    folder = work.resolve() / f"parts-{_identity(shards, spec, parts)}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / _SHARED).exists():
        _share(shards, spec, folder / _SHARED)
    if missing := [part for part in range(parts) if not _folder(folder, part).exists()]:
        run_blocks(
            missing,
            partial(_write, str(shards.folder), str(folder), spec, parts),
            workers=workers,
            report=report,
            note="parts of the index",
            address=address,
        )
    folders = [_folder(folder, part) for part in range(parts)]
    index = _joined(shards, folders, spec, config, queries)
    if config.shards == 1:
        shutil.rmtree(work)
        return index, ()
    return index, folders


def _share(shards: Shards, spec: IndexSpec, path: Path) -> None:
    """Write what all parts share."""
    info = shards.info
    sample = shards.take(np.arange(0, info.count, mean_step(info.count)))
    shared = {"mean": mean_of(sample)}
    if spec.is_lists:
        store = Int8Store(info.dim, "ip", spec)
        store.train(shards.take(training_rows(spec, info.count)), info.count)
        shared["centres"] = store.centres
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    save_file(shared, fresh)
    fresh.replace(path)


def _write(shards: str, folder: str, spec: IndexSpec, parts: int, part: int) -> None:
    """Write one part, so that its folder is whole or absent. Runs in a worker."""
    own = Shards.open(Path(shards))
    numbers = np.arange(part, own.info.count, parts)
    vectors = own.take(numbers)
    shared = load_file(Path(folder) / _SHARED)
    store: VectorStore
    if spec.is_lists:
        store = Int8Store.of_centres(shared["centres"], "ip", spec, given=vectors, step=parts)
    else:
        store = create_store(spec, vectors, numbers)
    store.add(numbers, vectors)
    target = _folder(Path(folder), part)
    fresh = target.with_name(f"{target.name}.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    write_part(fresh, ItemIndex(store, _info(own, store)), vectors, shared["mean"])
    for file in fresh.iterdir():
        sync_file(file)
    sync_directory(fresh)
    try:
        fresh.rename(target)
    except OSError:
        if not target.exists():
            raise
        shutil.rmtree(fresh)  # a worker that was taken for dead had written it already


def _joined(
    shards: Shards,
    folders: Sequence[Path],
    spec: IndexSpec,
    config: IndexConfig,
    queries: Float32s | None,
) -> ItemIndex:
    """Return the parts as one index whose search goes as far as the target recall asks."""
    vectors = shards.whole()
    files = [(folder / INDEX, folder / INFO) for folder in folders]
    store = load_part(files, model_id=shards.info.model_id, vectors=vectors).store
    numbers = np.arange(len(vectors), dtype=np.int64)
    info = replace(_info(shards, store), recall_at=config.recall_at)
    return finish_index(store, vectors, numbers, info, config, queries, spec)


def _info(shards: Shards, store: VectorStore) -> IndexInfo:
    return IndexInfo(
        kind=store.spec.kind,
        dim=shards.info.dim,
        count=len(store),
        model_id=shards.info.model_id,
    )


def _folder(folder: Path, part: int) -> Path:
    return folder / f"part-{part:05d}"


def _identity(shards: Shards, spec: IndexSpec, parts: int) -> str:
    values = json.dumps([asdict(shards.info), asdict(spec), parts], sort_keys=True)
    return hashlib.sha256(values.encode()).hexdigest()[:12]
