"""Writes a data set folder so that it appears whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corerec.data.spec import FILE_NAME, DatasetSpec
from corerec.errors import InvalidArgument


def check_target(out: Path, *, overwrite: bool) -> None:
    """Raise InvalidArgument unless a data set may be written to `out`."""
    if not out.exists():
        return
    if not out.is_dir():
        raise InvalidArgument(f"the output must be a folder, {out} is a file")
    if not any(out.iterdir()):
        return
    if not (out / FILE_NAME).is_file():
        raise InvalidArgument(f"{out} is not empty and holds no data set; choose another folder")
    if not overwrite:
        raise InvalidArgument(f"{out} holds a data set already; replace it with --force")


@contextmanager
def staged_folder(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a hidden folder beside `out` that becomes `out` when the block ends without an error.

    On any error, Ctrl-C included, the hidden folder is removed and `out` is as it was.

    Raises:
        InvalidArgument: `out` exists and may not be replaced.
    """
    out = out.absolute()
    check_target(out, overwrite=overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".tmp-{out.name}-", dir=out.parent))
    try:
        stage.chmod(0o755)
        yield stage
        for path in stage.rglob("*"):
            _sync(path)
        _sync(stage)
        _replace(stage, out)
        _sync(out.parent)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def write_dataset(
    out: Path,
    spec: DatasetSpec,
    *,
    items: pl.DataFrame,
    interactions: pl.DataFrame | None = None,
    users: pl.DataFrame | None = None,
    vectors: Mapping[str, NDArray[np.float32]] | None = None,
    overwrite: bool = False,
) -> None:
    """Write tables as Parquet under the names that `spec` gives them, with `dataset.toml`.

    Raises:
        InvalidArgument: `out` exists and may not be replaced.
    """
    with staged_folder(out, overwrite=overwrite) as stage:
        items.write_parquet(stage / spec.items.file)
        if interactions is not None:
            interactions.write_parquet(stage / spec.interactions.file)
        if users is not None:
            users.write_parquet(stage / spec.users.file)
        for name, array in (vectors or {}).items():
            np.save(stage / spec.vectors[name], array, allow_pickle=False)
        write_spec(stage, spec)


def write_spec(root: Path, spec: DatasetSpec) -> None:
    """Write `dataset.toml` with every key that differs from its default."""
    (root / FILE_NAME).write_text(spec_text(spec), encoding="utf-8")


def spec_text(spec: DatasetSpec) -> str:
    """Return `dataset.toml` with every key that differs from its default."""
    lines, tables = [], []
    for name, value in _said(spec).items():
        if dataclasses.is_dataclass(value) or isinstance(value, Mapping):
            body = value if isinstance(value, Mapping) else _said(value)
            rows = [f"{key} = {_toml(part)}" for key, part in body.items()]
            tables += ["", f"[{name}]", *rows] if rows else []
        else:
            lines.append(f"{name} = {_toml(value)}")
    return "\n".join([*lines, *tables]) + "\n"


def _said(value: Any) -> dict[str, Any]:
    return {
        part.name: getattr(value, part.name)
        for part in dataclasses.fields(value)
        if part.default is dataclasses.MISSING or getattr(value, part.name) != part.default
    }


def _toml(value: object) -> str:
    # A JSON string, number or array of strings is TOML as it stands.
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def _replace(stage: Path, out: Path) -> None:
    if not out.exists():
        stage.rename(out)
        return
    old = stage.with_name(stage.name + "-old")
    out.rename(old)
    try:
        stage.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
