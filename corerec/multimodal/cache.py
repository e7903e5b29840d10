"""Vectors by content: what has been encoded once is not encoded again, by the same encoder."""

# n contents, D width of a vector

from __future__ import annotations

import hashlib
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from corerec.errors import InvalidArgument
from corerec.multimodal.encoder import ContentEncoder
from corerec.stages import Float32s

Content = TypeVar("Content", str, Path, Path | None)
Report = Callable[[int, int], None]
"""Called with contents done and contents in all."""

FILE_NAME = "vectors.sqlite"
_SCHEMA = "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB, crc INTEGER)"
_ASKED = 500
"""Keys in one query."""
_CHUNK = 1024
"""Contents between two commits: a killed run loses at most so many."""


class VectorCache:
    """A folder of vectors by key, one SQLite file: a kill at any moment loses no committed vector.

    Each vector carries its CRC-32. One that does not match, or has another width, counts as
    `corrupt` and as a miss, and is replaced by the next `put`. A file that is no database any more
    is set aside as `vectors.sqlite.broken-<time>` and a new one begun. Several processes may use
    one folder. Close it, or use it in a `with` block.
    """

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise InvalidArgument(f"a cache must be a folder, {folder} is a file")
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE_NAME
        self.hits = 0
        """Vectors found."""
        self.misses = 0
        """Vectors asked for and not found, the corrupt ones too."""
        self.corrupt = 0
        """Vectors found and not believed."""
        self._database = self._open()

    def get(self, keys: Sequence[bytes], dim: int) -> tuple[Float32s, NDArray[np.bool_]]:
        """Return vectors (n, dim), zero where there is none, and (n,) whether there is one."""
        vectors, found = np.zeros((len(keys), dim), np.float32), np.zeros(len(keys), np.bool_)
        places: dict[bytes, list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(key, []).append(place)
        for key, blob, crc in self._rows(list(places)):
            if not isinstance(blob, bytes) or len(blob) != 4 * dim or zlib.crc32(blob) != crc:
                self.corrupt += 1
                continue
            vectors[places[key]] = np.frombuffer(blob, "<f4")
            found[places[key]] = True
        self.hits += int(found.sum())
        self.misses += int((~found).sum())
        return vectors, found

    def put(self, keys: Sequence[bytes], vectors: Float32s) -> None:
        """Keep vectors (n, D), durably, all or none of them.

        Raises:
            InvalidArgument: for another count, NaN or infinity.
        """
        if vectors.ndim != 2 or len(vectors) != len(keys):
            raise InvalidArgument(f"vectors must be ({len(keys)}, D), got {vectors.shape}")
        if not np.isfinite(vectors).all():
            row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
            raise InvalidArgument(f"a cached vector must be finite, row {row} is not")
        blobs = [row.astype("<f4").tobytes() for row in vectors]
        rows = [(key, blob, zlib.crc32(blob)) for key, blob in zip(keys, blobs, strict=True)]
        with self._database:
            self._database.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM vectors").fetchone()[0])

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _rows(self, keys: list[bytes]) -> Iterator[tuple[bytes, Any, Any]]:
        try:
            for start in range(0, len(keys), _ASKED):
                part = keys[start : start + _ASKED]
                marks = ",".join("?" * len(part))
                query = f"SELECT key, vector, crc FROM vectors WHERE key IN ({marks})"
                yield from self._database.execute(query, part)
        except sqlite3.OperationalError:
            raise  # locked or out of room: the file itself is well
        except sqlite3.DatabaseError:
            self._set_aside()

    def _open(self) -> sqlite3.Connection:
        try:
            return _connect(self.path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            return self._renewed()

    def _set_aside(self) -> None:
        self._database.close()
        self._database = self._renewed()

    def _renewed(self) -> sqlite3.Connection:
        """Begin anew beside the broken file; what it held is encoded again."""
        self.corrupt += 1
        self.path.replace(self.path.with_name(f"{FILE_NAME}.broken-{time.time_ns()}"))
        for suffix in ("-wal", "-shm"):
            self.path.with_name(FILE_NAME + suffix).unlink(missing_ok=True)
        return _connect(self.path)


def content_key(fingerprint: str, content: str | Path) -> bytes:
    """Return SHA-256 of the encoder and the content: the text, or the bytes of the file.

    Raises:
        OSError: when the file cannot be read.
    """
    found = hashlib.sha256(fingerprint.encode())
    if isinstance(content, str):
        found.update(b"\0text\0" + content.encode("utf-8", "surrogatepass"))
        return found.digest()
    found.update(b"\0file\0")
    with content.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.digest()


def encode_cached(
    encoder: ContentEncoder[Content],
    contents: Sequence[Content],
    cache: VectorCache | None,
    report: Report | None = None,
) -> Float32s:
    """Return (n, D) as `encoder.encode(contents)` does, asking it only for what is new.

    The encoder sees each new content once, however often it comes. Zero vectors are not kept:
    they say that something was missing or broken, which the next run should find out again.
    Without a cache it is asked for everything, in parts.

    Raises:
        InvalidArgument: when the encoder returns another shape, NaN or infinity, or as it does.
    """
    vectors = np.zeros((len(contents), encoder.dim), np.float32)
    fingerprint = encoder.fingerprint
    for start in range(0, len(contents), _CHUNK):
        part = contents[start : start + _CHUNK]
        vectors[start : start + len(part)] = (
            _encoded(encoder, part) if cache is None else _chunk(encoder, part, fingerprint, cache)
        )
        if report is not None:
            report(start + len(part), len(contents))
    return vectors


def _chunk(
    encoder: ContentEncoder[Content],
    contents: Sequence[Content],
    fingerprint: str,
    cache: VectorCache,
) -> Float32s:
    keys = [_key_or_none(fingerprint, content) for content in contents]
    keyed = [place for place, key in enumerate(keys) if key is not None]
    vectors = np.zeros((len(contents), encoder.dim), np.float32)
    found = np.zeros(len(contents), np.bool_)
    vectors[keyed], found[keyed] = cache.get([keys[place] or b"" for place in keyed], encoder.dim)
    # The first place of each new key; what has no key, such as a lost file, is the encoder's say.
    new: dict[bytes | int, int] = {}
    for place in np.flatnonzero(~found).tolist():
        new.setdefault(keys[place] or place, place)
    if not new:
        return vectors
    made = _encoded(encoder, [contents[place] for place in new.values()])
    row = {key: place for place, key in enumerate(new)}
    for place in np.flatnonzero(~found).tolist():
        vectors[place] = made[row[keys[place] or place]]
    kept = [place for place, key in enumerate(new) if isinstance(key, bytes) and made[place].any()]
    names = list(new)
    cache.put([key for place in kept if isinstance(key := names[place], bytes)], made[kept])
    return vectors


def _encoded(encoder: ContentEncoder[Content], contents: Sequence[Content]) -> Float32s:
    made = np.asarray(encoder.encode(contents), np.float32)
    if made.shape != (len(contents), encoder.dim):
        raise InvalidArgument(
            f"{encoder.name}: vectors must have shape {(len(contents), encoder.dim)}, "
            f"got {made.shape}"
        )
    if not np.isfinite(made).all():
        row = int(np.argmin(np.isfinite(made).all(axis=1)))
        raise InvalidArgument(f"{encoder.name}: vectors must be finite, that of "
                              f"{contents[row]!r} is not")  # fmt: skip
    return made


def _key_or_none(fingerprint: str, content: str | Path | None) -> bytes | None:
    if content is None:
        return None
    try:
        return content_key(fingerprint, content)
    except OSError:
        return None


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=60)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute(_SCHEMA)
        database.commit()
    except BaseException:
        database.close()
        raise
    return database
