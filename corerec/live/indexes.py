"""Puts the changes of a release's catalogue into the indexes that it is written with.

A core that loads the release takes them from its snapshot for everything but the indexes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from safetensors.numpy import load_file

from corerec.live.content import KIND, ContentSide
from corerec.release import Release, ReleaseWriter
from corerec.retrieval.build import load_index, save_index
from corerec.retrieval.index import ItemIndex
from corerec.retrieval.options import HEADER, RetrievalHeader
from corerec.retrieval.sources import index_files, read_model_id, vectors_file
from corerec.stages import Float32s
from corerec.store.catalogue import ItemChange


def sources_of(release: Release) -> tuple[str, ...]:
    """Return the kinds of a release whose vectors an index ranks."""
    return RetrievalHeader.load(release.file(HEADER)).sources if release.has(HEADER) else ()


def is_index_file(name: str, kinds: Sequence[str]) -> bool:
    """Say whether a file of a release belongs to the index of one of these kinds."""
    return any(name.startswith(f"{kind}_index") for kind in kinds)


def put_changes(
    index: ItemIndex,
    kind: str,
    changes: Iterable[Sequence[ItemChange]],
    content: ContentSide,
    trained: Float32s,
) -> None:
    """Leave out deleted items of an index, and give changed and new ones the vectors they have now.

    Only a two-tower knows new items; of other models those of the training are there, which may
    have come back. `changes` come in parts, each item once in all of them.

    Shapes: trained (N, D), vectors of the training by item number.
    """
    known = index.numbers()
    for part in changes:
        index.remove(np.array([c.number for c in part if c.item is None], np.int64))
        there = {c.number: c.item for c in part if c.item is not None}
        numbers = np.array(list(there), np.int64)
        back = numbers[(numbers < len(trained)) & ~np.isin(numbers, known)]
        index.upsert(back, trained[back])
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
    """
    kinds = sources_of(release)
    content = ContentSide.load(release) if kinds else None
    for kind in kinds:
        path, header = index_files(kind)
        model_id = read_model_id(release.file(f"{kind}.json"))
        vectors = load_file(release.file(vectors_file(kind)))["vectors"]
        index = load_index(
            release.file(path), release.file(header), model_id=model_id, vectors=vectors
        )
        if content is not None:
            put_changes(index, kind, changes, content, vectors)
        save_index(index, writer.path(path), writer.path(header), with_vectors=False)
