"""The files that hold a source's item vectors and index in a release: one of each, or parts.

Part p of S has the items whose number is p modulo S. So has shard p of S of a deployment, which
then reads no other part; shard s of another number reads the parts that its items lie in.
"""

# N items, D width, S parts of a release, M items of a part or shard

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from corerec.errors import ReleaseError
from corerec.release import OpenRelease
from corerec.retrieval.build import load_part, read_info, save_index, write_info
from corerec.retrieval.index import ItemIndex
from corerec.retrieval.options import HEADER, RetrievalHeader
from corerec.stages import Float32s

At = Callable[[str], Path]
"""Where to write the file of a name in a release, such as `ReleaseWriter.path`."""

VECTORS, INDEX, INFO = "vectors.safetensors", "index.faiss", "index.json"
_MEAN_OF = 65_536
"""Most vectors that a mean is taken of."""


def vectors_file(kind: str, part: int = 0, parts: int = 1) -> str:
    """Return the name of a source's item vectors in a release, or of a part of them."""
    return f"{kind}_{VECTORS}" if parts == 1 else f"{_folder(kind, part, parts)}/{VECTORS}"


def index_files(kind: str, part: int = 0, parts: int = 1) -> tuple[str, str]:
    """Return the names of a source's index and its header in a release, or of a part of them."""
    if parts == 1:
        return f"{kind}_{INDEX}", f"{kind}_{INFO}"
    folder = _folder(kind, part, parts)
    return f"{folder}/{INDEX}", f"{folder}/{INFO}"


def is_index_file(name: str, kinds: Sequence[str]) -> bool:
    """Say whether a file of a release belongs to the index of one of these kinds."""
    _, _, last = name.rpartition("/")
    return any(
        name.startswith(f"{kind}_index")
        or (name.startswith(f"{kind}_parts/") and last.startswith("index."))
        for kind in kinds
    )


def is_vectors_file(name: str, kinds: Sequence[str]) -> bool:
    """Say whether a file of a release holds item vectors of one of these kinds."""
    return any(
        name == vectors_file(kind)
        or (name.startswith(f"{kind}_parts/") and name.endswith(f"/{VECTORS}"))
        for kind in kinds
    )


def parts_of(release: OpenRelease) -> int:
    """Return how many parts a release holds vectors and indexes in, 1 for whole ones."""
    return RetrievalHeader.load(release.file(HEADER)).shards


def parts_for(parts: int, shard: int, shards: int) -> range:
    """Return the parts of a release that hold items of a shard.

    An item of both has the same remainder by any common divisor: with as many shards as parts that
    is one part, with half as many two; every part where they have no divisor in common.
    """
    common = math.gcd(parts, shards)
    return range(shard % common, parts, common)


def mean_of(vectors: Float32s) -> Float32s:
    """Return the mean vector (D,) of items (N, D), of a sample of many."""
    sample = vectors[:: mean_step(len(vectors))]
    if not len(sample):
        return np.zeros(vectors.shape[1], np.float32)
    found: Float32s = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
    return found


def mean_step(count: int) -> int:
    """Return that each so many-th of `count` items counts for the mean."""
    return max(1, -(-count // _MEAN_OF))


def read_vectors(
    release: OpenRelease, kind: str, count: int, shard: int = 0, shards: int = 1
) -> tuple[Float32s, Float32s]:
    """Return the vectors (M, D) of a shard and the mean (D,) of all items; count is N.

    Row i is item number i * shards + shard. Only the parts that hold some of them are read.

    Raises:
        ReleaseError: naming a file that is missing, or holds other vectors than its place says.
    """
    parts = parts_of(release)
    if parts == 1:
        whole, _ = _read(release.file(vectors_file(kind)), count)
        mean = mean_of(whole)
        return (whole if shards == 1 else np.ascontiguousarray(whole[shard::shards])), mean
    needed = parts_for(parts, shard, shards)
    found: Float32s | None = None
    for part in needed:
        path = release.file(vectors_file(kind, part, parts))
        own, mean = _read(path, len(range(part, count, parts)))
        if len(needed) == 1 and shards == parts:
            return own, mean
        if found is None:
            found = np.empty((len(range(shard, count, shards)), own.shape[1]), np.float32)
        numbers = np.arange(part, count, parts)
        kept = numbers % shards == shard
        found[numbers[kept] // shards] = own if kept.all() else own[kept]
    assert found is not None
    return found, mean


def read_index(
    release: OpenRelease,
    kind: str,
    vectors: Float32s | None,
    shard: int = 0,
    shards: int = 1,
    *,
    model_id: str | None = None,
) -> ItemIndex:
    """Return the index of a shard, whose vectors are those of `read_vectors`.

    Raises:
        ReleaseError: when a file is missing, or parts are not of one index or one model.
    """
    parts = parts_of(release)
    files = [index_files(kind, part, parts) for part in parts_for(parts, shard, shards)]
    return load_part(
        [(release.file(path), release.file(header)) for path, header in files],
        shard,
        shards,
        model_id=model_id,
        vectors=vectors,
    )


def write_vectors(at: At, kind: str, vectors: Float32s, parts: int = 1) -> None:
    """Write the vectors (N, D) of all items, whole or in parts."""
    if parts == 1:
        save_file({"vectors": np.ascontiguousarray(vectors)}, at(vectors_file(kind)))
        return
    mean = mean_of(vectors)
    for part in range(parts):
        _write_vectors(at(vectors_file(kind, part, parts)), vectors[part::parts], mean)


def write_index(at: At, kind: str, index: ItemIndex, vectors: Float32s, parts: int = 1) -> None:
    """Write an index over all items, whole or in parts; its vectors (N, D) lie beside it."""
    if parts == 1:
        path, header = (at(name) for name in index_files(kind))
        save_index(index, path, header, with_vectors=False)
        return
    for part in range(parts):
        path, header = (at(name) for name in index_files(kind, part, parts))
        own = index.shard(part, parts, vectors=np.ascontiguousarray(vectors[part::parts]))
        save_index(own, path, header, with_vectors=False)


def place_parts(at: At, kind: str, index: ItemIndex, folders: Sequence[Path]) -> None:
    """Put parts that lie in folders, each as `write_part` left it, where a release has them.

    `index` is what they are together: how far it searches was chosen since.
    """
    for part, folder in enumerate(folders):
        path, header = index_files(kind, part, len(folders))
        target = path.removesuffix(INDEX)
        for file in sorted(folder.iterdir()):
            if file.name != INFO:
                _same_file(file, at(target + file.name))
        own = read_info(folder / INFO)
        store = (own.store or {}) | {"spec": asdict(index.store.spec)}
        tuned = replace(index.info, count=own.count, identity=own.identity, store=store)
        write_info(tuned, at(header))


def write_part(folder: Path, index: ItemIndex, vectors: Float32s, mean: Float32s) -> None:
    """Write a part's vectors (M, D) and index, and the mean (D,) of all items, into a folder."""
    _write_vectors(folder / VECTORS, vectors, mean)
    save_index(index, folder / INDEX, folder / INFO, with_vectors=False)


def _folder(kind: str, part: int, parts: int) -> str:
    return f"{kind}_parts/{part}-of-{parts}"


def _read(path: Path, count: int) -> tuple[Float32s, Float32s]:
    """Return vectors (count, D) of a file and its mean, one of no width without one."""
    try:
        tensors = load_file(path)
        vectors = tensors["vectors"]
    except (OSError, SafetensorError, KeyError) as error:
        raise ReleaseError(f"{path}: must hold item vectors: {error}") from None
    if vectors.ndim != 2 or len(vectors) != count or vectors.dtype != np.float32:
        raise ReleaseError(
            f"{path}: must hold float32 vectors of {count} items, got {vectors.dtype} "
            f"{vectors.shape}"
        )
    return vectors, tensors.get("mean", np.empty(0, np.float32))


def _write_vectors(path: Path, vectors: Float32s, mean: Float32s) -> None:
    save_file({"vectors": np.ascontiguousarray(vectors), "mean": mean}, path)


def _same_file(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or none that links
        shutil.copyfile(source, target)
