"""Chooses the indexes of a release's sources, and writes a new release that has them."""

# Q queries, N items, D width

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from corerec.errors import FailedPrecondition, InvalidArgument
from corerec.live.content import ContentSide
from corerec.live.indexes import put_changes
from corerec.live.snapshot import read_snapshot
from corerec.release import Release, ReleaseWriter
from corerec.retrieval.choose.chooser import QUERIES, Choice, choose_index
from corerec.retrieval.choose.measure import Report
from corerec.retrieval.choose.picture import choice_as_json, draw_frontier
from corerec.retrieval.choose.target import Target
from corerec.retrieval.index import IndexConfig, IndexInfo, ItemIndex
from corerec.retrieval.options import HEADER, RetrievalHeader
from corerec.retrieval.source_files import (
    is_index_file,
    is_vectors_file,
    read_index,
    read_vectors,
    write_index,
    write_vectors,
)
from corerec.retrieval.sources import load_encoder, read_model_id
from corerec.stages import Float32s, UserContext

_NEWEST = 1000
"""Events of a user that a query is made of at most."""


def frontier_files(kind: str) -> tuple[str, str]:
    """Return the names of what was measured for a source in a release: JSON and picture."""
    return f"index_{kind}.frontier.json", f"index_{kind}.frontier.png"


def choose_for(
    release: Release,
    target: Target,
    *,
    only: str = "",
    kinds: Sequence[str] | None = None,
    work: Path,
    report: Report,
) -> dict[str, Choice]:
    """Return the choice for each vector source of a release, or for `only` one, by its kind.

    The queries are those of the release's own users, encoded from their histories. Trials are kept
    in `work`, a folder for each source and target.

    Raises:
        InvalidArgument: when the release has no such source.
        FailedPrecondition: when no user of the release has a history.
    """
    sources = RetrievalHeader.load(release.file(HEADER)).sources
    if only and only not in sources:
        raise InvalidArgument(f"source must be one of {list(sources)}, got {only!r}")
    users = _users(release, target.seed)
    found = {}
    for kind in [only] if only else sources:
        vectors, _ = read_vectors(release, kind, len(release.catalogue))
        queries = _queries(release, kind, users)
        told = f"{release.id} {kind} {asdict(target)} {kinds}"
        name = f"{kind}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
        found[kind] = choose_index(
            np.ascontiguousarray(vectors, np.float32),
            queries,
            target,
            work=work / name,
            plans=kinds,
            report=report,
        )
    return found


def write_with_indexes(
    release: Release,
    choices: Mapping[str, Choice],
    out: Path,
    *,
    release_id: str | None = None,
    shards: int | None = None,
) -> Path:
    """Write a new release with the chosen indexes and what was measured, and return its folder.

    All else is copied. The release that it was made of does not change. The new one holds vectors
    and indexes in `shards` parts, in as many as the old one when None.

    Raises:
        FailedPrecondition: when a choice has no index.
        InvalidArgument: when `shards` is out of range.
    """
    header = RetrievalHeader.load(release.file(HEADER))
    parts = IndexConfig(shards=header.shards if shards is None else shards).shards
    cut = header.sources if parts != header.shards else ()
    told = {name for kind in choices for name in frontier_files(kind)}
    with ReleaseWriter(out, release_id) as writer:
        for name in release.manifest.files:
            old = is_index_file(name, [*choices, *cut]) or is_vectors_file(name, cut)
            if not old and name not in told:
                shutil.copyfile(release.file(name), writer.path(name))
        if cut:
            replace(header, shards=parts).save(writer.path(HEADER))
        for kind in cut or tuple(choices):
            _write_source(release, kind, choices.get(kind), writer, parts, kind in cut)
        for kind, choice in choices.items():
            json_name, picture = frontier_files(kind)
            writer.path(json_name).write_text(choice_as_json(choice, source=kind))
            draw_frontier(choice, writer.path(picture))
        chosen = {kind: own.chosen.text() for kind, own in choices.items() if own.chosen}
        info = dict(release.info)
        if choices:
            indexes = {**info.get("indexes", {}), **chosen}
            info |= {"indexed_from": release.id, "indexes": indexes}
        else:
            info["split_from"] = release.id
        return writer.commit(info)


def _write_source(
    release: Release,
    kind: str,
    choice: Choice | None,
    writer: ReleaseWriter,
    parts: int,
    with_vectors: bool,
) -> None:
    """Write the index that was chosen for a source, or the one that it has."""
    vectors, _ = read_vectors(release, kind, len(release.catalogue))
    model_id = read_model_id(release.file(f"{kind}.json"))
    if choice is None:
        index = read_index(release, kind, vectors, model_id=model_id)
    else:
        index = _chosen(choice, kind, model_id)
        # Measured over the items of the training; what changed since is in the index all the same.
        put_changes(index, kind, read_snapshot(release), ContentSide.load(release), vectors)
    if with_vectors:
        write_vectors(writer.path, kind, vectors, parts)
    write_index(writer.path, kind, index, vectors, parts)


def _chosen(choice: Choice, kind: str, model_id: str) -> ItemIndex:
    """Return the index of a choice. Raises FailedPrecondition when it has none."""
    if choice.store is None or choice.chosen is None:
        raise FailedPrecondition(f"{kind}: an index must be chosen before it is written")
    spec = choice.store.spec
    info = IndexInfo(
        kind=spec.kind,
        dim=choice.store.dim,
        count=len(choice.store),
        model_id=model_id,
        nlist=spec.nlist if spec.is_lists else 0,
        nprobe=spec.nprobe if spec.is_lists else 0,
        recall=choice.chosen.recall,
        recall_at=choice.target.at,
        queries=QUERIES,
        refine_factor=spec.refine_factor if spec.is_refined else 1.0,
    )
    return ItemIndex(choice.store, info)


def _users(release: Release, seed: int) -> list[UserContext]:
    """Return some users of a release with their newest events as histories."""
    table = pl.scan_parquet(release.file("histories.parquet"))
    ids = table.select(pl.col("user_id").unique(maintain_order=True)).collect()["user_id"]
    if not len(ids):
        raise FailedPrecondition(f"{release.id}: no user has a history to make queries of")
    rng = np.random.default_rng(seed)
    some = ids.gather(np.sort(rng.choice(len(ids), min(QUERIES, len(ids)), replace=False)))
    rows = (
        table.filter(pl.col("user_id").is_in(some.implode()))
        .group_by("user_id", maintain_order=True)
        .agg(
            pl.col("item_number").cast(pl.Int64).tail(_NEWEST),
            pl.col("event_time_micros").cast(pl.Int64).tail(_NEWEST),
        )
        .collect()
    )
    attributes = _attributes(release, rows["user_id"])
    return [
        UserContext(
            user_id=user,
            attributes=attributes.get(user, {}),
            items=np.array(items, np.int64),
            times=np.array(times, np.int64),
        )
        for user, items, times in rows.iter_rows()
    ]


def _attributes(release: Release, users: pl.Series) -> dict[str, dict[str, str]]:
    table = pl.scan_parquet(release.file("users.parquet"))
    table = table.filter(pl.col("user_id").is_in(users.implode()))
    found: dict[str, dict[str, str]] = {}
    for row in table.collect().iter_rows(named=True):
        user = str(row.pop("user_id"))
        found[user] = {name: str(value) for name, value in row.items() if value is not None}
    return found


def _queries(release: Release, kind: str, users: list[UserContext]) -> Float32s:
    encode: Any = load_encoder(release, kind).encode
    queries = np.concatenate([encode(users[i : i + 256]) for i in range(0, len(users), 256)])
    found: Float32s = np.ascontiguousarray(queries[np.isfinite(queries).all(axis=1)], np.float32)
    if not len(found):
        raise FailedPrecondition(f"{release.id}: {kind} encodes no user of it to a finite query")
    return found
