"""Puts the changes of a release's catalogue into the indexes that it is written with.

A core that loads the release takes them from its snapshot for everything but the indexes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from corerec.live.content import KIND, ContentSide
from corerec.release import Release, ReleaseWriter
from corerec.retrieval.build import save_index
from corerec.retrieval.index import ItemIndex
from corerec.retrieval.options import HEADER, RetrievalHeader
from corerec.retrieval.source_files import index_files, parts_of, read_index, read_vectors
from corerec.retrieval.sources import read_model_id
from corerec.stages import Float32s
from corerec.store.catalogue import ItemChange


def sources_of(release: Release) -> tuple[str, ...]:
    """Return the kinds of a release whose vectors an index ranks."""
    return RetrievalHeader.load(release.file(HEADER)).sources if release.has(HEADER) else ()


def put_changes(
    index: ItemIndex,
    kind: str,
    changes: Iterable[Sequence[ItemChange]],
    content: ContentSide,
    trained: Float32s,
    shard: int = 0,
    shards: int = 1,
) -> None:
    """Leave out deleted items of an index, and give changed and new ones the vectors they have now.

    Only a two-tower knows new items; of other models those of the training are there, which may
    have come back. `changes` come in parts, each item once in all of them; those of other shards
    are passed over.

    Shapes: trained (M, D), the shard's vectors of the training, row i of number i * shards + shard.
    """
    known = index.numbers()
    for page in changes:
        part = [c for c in page if c.number % shards == shard]
        index.remove(np.array([c.number for c in part if c.item is None], np.int64))
        there = {c.number: c.item for c in part if c.item is not None}
        numbers = np.array(list(there), np.int64)
        rows = numbers // shards
        back = (rows < len(trained)) & ~np.isin(numbers, known)
        index.upsert(numbers[back], trained[rows[back]])
        if kind == KIND and there and content.has_tower:
            found = content.encode_good(numbers, list(there.values()))
            index.upsert(found.numbers, found.vectors)


def write_indexes(
    release: Release,
    writer: ReleaseWriter,
    changes: Sequence[Sequence[ItemChange]],
) -> None:
    """Write the indexes of a release over everything that is alive after these changes.

    Centres and parameters stay: choose them anew with `corerec index build` after many changes.
    A release in parts gets parts, one after the other, so that no more than one is in memory.
    """
    kinds = sources_of(release)
    content = ContentSide.load(release) if kinds else None
    parts = parts_of(release) if kinds else 1
    for kind in kinds:
        model_id = read_model_id(release.file(f"{kind}.json"))
        for part in range(parts):
            own = part, parts
            vectors, _ = read_vectors(release, kind, len(release.catalogue), *own)
            index = read_index(release, kind, vectors, *own, model_id=model_id)
            if content is not None:
                put_changes(index, kind, changes, content, vectors, *own)
            path, header = (writer.path(name) for name in index_files(kind, *own))
            save_index(index, path, header, with_vectors=False)
