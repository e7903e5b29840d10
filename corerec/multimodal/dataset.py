"""Writes what encoders make of the items' columns into a data set folder, as vector sets."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from corerec.config import build_config
from corerec.data.spec import FILE_NAME, DatasetSpec, load_spec
from corerec.data.write import spec_text
from corerec.errors import ConfigError, InvalidArgument
from corerec.multimodal.cache import VectorCache, encode_cached
from corerec.multimodal.columns import pictures, texts
from corerec.multimodal.encoder import ContentEncoder
from corerec.multimodal.hashed import HashedNgramEncoder
from corerec.multimodal.kept import ENCODERS, EncoderReads
from corerec.release.durable import replace_atomically, sync_directory, sync_file
from corerec.stages import Float32s

Report = Callable[[str, int, int], None]
"""Called with a vector set's name, items done and items in all."""

_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, kw_only=True)
class EncodeJob:
    """One vector set to make. Exactly one of `text` and `image` is given."""

    name: str
    """Name of the vector set: letters, digits, dashes and underscores."""
    text: tuple[str, ...] = ()
    """Columns of the items table that are put together into one text, lists included."""
    image: str = ""
    """Column of paths of image files, relative to the data set folder; empty is no image."""
    text_encoder: ContentEncoder[str] | None = None
    """Encodes `text`."""
    image_encoder: ContentEncoder[Path | None] | None = None
    """Encodes `image`."""

    def __post_init__(self) -> None:
        """Check what belongs together. Raises ConfigError."""
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"name must consist of letters, digits, dashes and underscores, got {self.name!r}"
            )
        by_text = bool(self.text) and self.text_encoder is not None
        by_image = bool(self.image) and self.image_encoder is not None
        if by_text == by_image or bool(self.text) == bool(self.image):
            raise ConfigError(
                f"{self.name}: a job must have text columns and a text encoder, or an image "
                "column and an image encoder"
            )


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What became of one job."""

    name: str
    file: str
    """Inside the data set folder."""
    encoder: str
    """Folder inside the data set folder that has the encoder; empty where it is kept elsewhere."""
    dim: int
    items: int
    missing: int
    """Items whose vector is zero: nothing to encode, or a broken file that was skipped."""
    hits: int = field(default=0)
    """Vectors that came from the cache."""


def encode_dataset(
    data: Path,
    jobs: Sequence[EncodeJob],
    *,
    cache: VectorCache | None = None,
    report: Report | None = None,
) -> list[Encoded]:
    """Encode items into vector sets of the data set folder; row i belongs to row i of the items.

    The folder is a whole data set at every moment: vectors are written beside it and synced, then
    `dataset.toml` is replaced in one step, then the files that it no longer names are removed. A
    zero row is an item whose content is missing. Comments in `dataset.toml` stay. A hashed
    encoder is kept in `encoders/<name>-<digest>` with the columns that it reads: new items need
    the same document frequencies.

    Raises:
        ConfigError, DataError: dataset.toml or the items table is wrong.
        InvalidArgument: two jobs of one name, an image that is a URL or outside the folder, or as
            an encoder raises.
    """
    if not jobs:
        raise InvalidArgument("jobs must name at least one vector set, got none")
    names = [job.name for job in jobs]
    if len(set(names)) < len(names):
        raise InvalidArgument(f"jobs must have one name each, got {names}")
    spec = load_spec(data)
    done: list[Encoded] = []
    for job in jobs:
        hits = cache.hits if cache else 0
        vectors = _vectors(data, job, cache, report)
        file = _write(data, job.name, vectors)
        kept = _keep(data, job, spec, file)
        done.append(
            Encoded(
                name=job.name,
                file=file,
                encoder=kept,
                dim=int(vectors.shape[1]),
                items=len(vectors),
                missing=int((~vectors.any(axis=1)).sum()),
                hits=cache.hits - hits if cache else 0,
            )
        )
    files = {made.name: made.file for made in done}
    _name_vectors(data, replace(spec, vectors={**spec.vectors, **files}), files)
    _remove_old(data, spec, done)
    return done


def _vectors(
    data: Path,
    job: EncodeJob,
    cache: VectorCache | None,
    report: Report | None,
) -> Float32s:
    def step(done: int, total: int) -> None:
        if report is not None:
            report(job.name, done, total)

    if job.text_encoder is not None:
        return encode_cached(job.text_encoder, texts(data, job.text), cache, step)
    if job.image_encoder is None:
        raise ConfigError(f"{job.name}: no encoder")
    return encode_cached(job.image_encoder, pictures(data, job.image), cache, step)


def _keep(data: Path, job: EncodeJob, spec: DatasetSpec, file: str) -> str:
    """Save a fitted encoder under a name that says its content, and return that."""
    encoder = job.text_encoder
    if not isinstance(encoder, HashedNgramEncoder):
        return ""
    name = f"{ENCODERS}/{job.name}-{encoder.fingerprint[:12]}"
    encoder.save(data / name)
    own = {spec.items.title: "title", spec.items.category: "category"}
    own |= {spec.items.creator: "creator"}
    reads = EncoderReads(file=file, columns=tuple(own.get(name, name) for name in job.text))
    reads.save(data / name)
    return name


def _remove_old(data: Path, spec: DatasetSpec, done: Sequence[Encoded]) -> None:
    """Remove what earlier runs wrote and nothing names now; a file of the user's own stays."""
    for made in done:
        old = spec.vectors.get(made.name, made.file)
        if old != made.file and re.fullmatch(rf"{made.name}\.[0-9a-f]{{12}}\.npy", old):
            (data / old).unlink(missing_ok=True)
        for folder in (data / ENCODERS).glob(f"{made.name}-*"):
            own = re.fullmatch(rf"{made.name}-[0-9a-f]{{12}}", folder.name)
            if own and f"{ENCODERS}/{folder.name}" != made.encoder:
                shutil.rmtree(folder)


def _write(data: Path, name: str, vectors: Float32s) -> str:
    """Write the vectors under a name that says their content, so that no old file changes."""
    content = np.ascontiguousarray(vectors, np.float32)
    file = f"{name}.{hashlib.sha256(content.data).hexdigest()[:12]}.npy"
    staged = data / f".tmp-{file}"
    try:
        np.save(staged, content, allow_pickle=False)
        sync_file(staged)
        staged.replace(data / file)
    finally:
        staged.unlink(missing_ok=True)
    sync_directory(data)
    return file


def _name_vectors(data: Path, spec: DatasetSpec, files: dict[str, str]) -> None:
    """Replace dataset.toml by one that names `files` under [vectors], the rest as it was."""
    path = data / FILE_NAME
    text = _with_keys(path.read_text(encoding="utf-8"), files)
    try:
        same = build_config(DatasetSpec, tomllib.loads(text), source=path) == spec
    except (tomllib.TOMLDecodeError, ConfigError):
        same = False
    if not same:
        # An inline table, or keys with dots: written anew from what it says.
        text = spec_text(spec)
    replace_atomically(path, text.encode())


def _with_keys(text: str, files: dict[str, str]) -> str:
    """Return TOML with `files` as keys of its table [vectors]."""
    lines = text.splitlines()
    wanted = [f"{name} = {json.dumps(file)}" for name, file in files.items()]
    heads = [n for n, line in enumerate(lines) if re.match(r"\s*\[\s*vectors\s*\]", line)]
    if not heads:
        return "\n".join([*lines, "", "[vectors]", *wanted]) + "\n"
    start = heads[0] + 1
    end = next((n for n in range(start, len(lines)) if re.match(r"\s*\[", lines[n])), len(lines))
    own = re.compile(rf"\s*[\"']?({'|'.join(map(re.escape, files))})[\"']?\s*=")
    kept = [line for line in lines[start:end] if not own.match(line)]
    return "\n".join([*lines[:start], *wanted, *kept, *lines[end:]]) + "\n"
