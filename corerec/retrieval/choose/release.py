"""Chooses the indexes of a release's sources, and writes a new release that has them."""

# Q queries, N items, D width

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors.numpy import load_file

from corerec.errors import FailedPrecondition, InvalidArgument
from corerec.live.content import ContentSide
from corerec.live.indexes import put_changes
from corerec.live.snapshot import read_snapshot
from corerec.release import Release, ReleaseWriter
from corerec.retrieval.build import save_index
from corerec.retrieval.choose.chooser import QUERIES, Choice, choose_index
from corerec.retrieval.choose.measure import Report
from corerec.retrieval.choose.picture import choice_as_json, draw_frontier
from corerec.retrieval.choose.target import Target
from corerec.retrieval.index import IndexInfo, ItemIndex
from corerec.retrieval.options import HEADER, RetrievalHeader
from corerec.retrieval.sources import (
    index_files,
    load_encoder,
    read_model_id,
    vectors_file,
)
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
        vectors = load_file(release.file(vectors_file(kind)))["vectors"]
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
    release: Release, choices: Mapping[str, Choice], out: Path, *, release_id: str | None = None
) -> Path:
    """Write a new release with the chosen indexes and what was measured, and return its folder.

    All else is copied. The release that it was made of does not change.

    Raises:
        FailedPrecondition: when a choice has no index.
    """
    replaced = {name for kind in choices for name in _names(release, kind)}
    with ReleaseWriter(out, release_id) as writer:
        for name in release.manifest.files:
            if name not in replaced:
                shutil.copyfile(release.file(name), writer.path(name))
        for kind, choice in choices.items():
            _write_index(release, kind, choice, writer)
            told, picture = frontier_files(kind)
            writer.path(told).write_text(choice_as_json(choice, source=kind))
            draw_frontier(choice, writer.path(picture))
        chosen = {kind: own.chosen.text() for kind, own in choices.items() if own.chosen}
        return writer.commit({**release.info, "indexed_from": release.id, "indexes": chosen})


def _write_index(release: Release, kind: str, choice: Choice, writer: ReleaseWriter) -> None:
    if choice.store is None or choice.chosen is None:
        raise FailedPrecondition(f"{kind}: an index must be chosen before it is written")
    spec = choice.store.spec
    info = IndexInfo(
        kind=spec.kind,
        dim=choice.store.dim,
        count=len(choice.store),
        model_id=read_model_id(release.file(f"{kind}.json")),
        nlist=spec.nlist if spec.is_lists else 0,
        nprobe=spec.nprobe if spec.is_lists else 0,
        recall=choice.chosen.recall,
        recall_at=choice.target.at,
        queries=QUERIES,
        refine_factor=spec.refine_factor if spec.is_refined else 1.0,
    )
    path, header = (writer.path(name) for name in index_files(kind))
    index = ItemIndex(choice.store, info)
    # Measured over the items of the training; what changed since is in the index all the same.
    trained = load_file(release.file(vectors_file(kind)))["vectors"]
    put_changes(index, kind, read_snapshot(release), ContentSide.load(release), trained)
    save_index(index, path, header, with_vectors=False)


def _names(release: Release, kind: str) -> list[str]:
    """Return the files of a release that are of a source's index or of an earlier choice."""
    stem = index_files(kind)[0].removesuffix(".faiss")
    own = set(frontier_files(kind))
    return [name for name in release.manifest.files if name.startswith(stem) or name in own]


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
