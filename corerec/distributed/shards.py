"""Item vectors as files by ranges of item numbers, each whole or absent, and what they are of."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from corerec.config import build_config
from corerec.errors import FailedPrecondition, InvalidArgument, ReleaseError
from corerec.stages import Float32s, Int64s

HEADER = "shards.json"


@dataclass(frozen=True, kw_only=True)
class ShardsInfo:
    """What shards.json holds: the files of a folder are shards of this and of nothing else."""

    model_id: str
    """Digest of the weights that the vectors come from."""
    count: int
    """N, items in all."""
    dim: int
    """D, width of a vector."""
    rows: int
    """Items of a shard; the last one may have fewer."""

    def __post_init__(self) -> None:
        """Check ranges. Raises InvalidArgument."""
        for name, least in (("count", 0), ("dim", 1), ("rows", 1)):
            if getattr(self, name) < least:
                raise InvalidArgument(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Shards:
    """A folder of shards."""

    folder: Path
    info: ShardsInfo

    @classmethod
    def open(cls, folder: Path) -> Shards:
        """Return the shards of a folder. Raises ReleaseError when shards.json cannot be read."""
        path = folder / HEADER
        try:
            values = json.loads(path.read_text())
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ReleaseError(f"{path}: not readable as JSON: {error}") from None
        return cls(folder, build_config(ShardsInfo, values, source=path))

    @classmethod
    def begin(cls, folder: Path, info: ShardsInfo) -> Shards:
        """Return the shards of a folder to go on with; files of anything else are removed."""
        folder.mkdir(parents=True, exist_ok=True)
        own = cls(folder, info)
        try:
            if cls.open(folder).info == info:
                return own
        except (ReleaseError, InvalidArgument):
            pass  # nothing there, or nothing that is worth keeping
        for path in folder.glob("vectors-*"):
            path.unlink()
        (folder / HEADER).write_text(json.dumps(asdict(info), indent=2) + "\n")
        return own

    def starts(self) -> range:
        """Return the first item number of each shard."""
        return range(0, self.info.count, self.info.rows)

    def missing(self) -> list[int]:
        """Return the first item numbers of the shards that are not there yet."""
        return [start for start in self.starts() if not self.path(start).exists()]

    def stop(self, start: int) -> int:
        """Return the item number after the last one of a shard."""
        return min(start + self.info.rows, self.info.count)

    def path(self, start: int) -> Path:
        """Return the file of a shard."""
        return self.folder / f"vectors-{start:012d}.npy"

    def write(self, start: int, vectors: Float32s) -> None:
        """Write a shard (n, D), so that its file is whole or absent.

        Raises:
            InvalidArgument: for a wrong shape or a vector that is not finite.
        """
        wanted = (self.stop(start) - start, self.info.dim)
        if vectors.shape != wanted or vectors.dtype != np.float32:
            raise InvalidArgument(
                f"the shard of item {start} must be float32 {wanted}, "
                f"got {vectors.dtype} {vectors.shape}"
            )
        if not np.isfinite(vectors).all():
            raise InvalidArgument(f"the shard of item {start} must be finite, got NaN or Inf")
        path = self.path(start)
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        with fresh.open("wb") as file:
            np.save(file, vectors, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)

    def read(self, start: int) -> Float32s:
        """Return a shard (n, D), mapped. Raises ReleaseError when it is not what was written."""
        path = self.path(start)
        try:
            found: Float32s = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ReleaseError(f"{path}: not readable as an array: {error}") from None
        wanted = (self.stop(start) - start, self.info.dim)
        if found.shape != wanted or found.dtype != np.float32:
            raise ReleaseError(f"{path}: must be float32 {wanted}, got {found.dtype} {found.shape}")
        return found

    def parts(self) -> Iterator[tuple[int, Float32s]]:
        """Yield first item number and vectors of every shard, in order.

        Raises:
            FailedPrecondition: when shards are missing.
        """
        if missing := self.missing():
            raise FailedPrecondition(
                f"{self.folder}: {len(missing)} of {len(self.starts())} shards are missing, "
                f"the first that of item {missing[0]}"
            )
        for start in self.starts():
            yield start, self.read(start)

    def take(self, rows: Int64s) -> Float32s:
        """Return the vectors (R, D) of ascending item numbers."""
        found = np.empty((len(rows), self.info.dim), np.float32)
        for start, part in self.parts():
            first, last = np.searchsorted(rows, [start, self.stop(start)])
            found[first:last] = part[rows[first:last] - start]
        return found

    def whole(self) -> Float32s:
        """Return all vectors (N, D), in memory."""
        return self.take(np.arange(self.info.count))
