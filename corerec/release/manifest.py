"""manifest.json: what a release holds, with the SHA-256 and size of every file and of itself.

Reading trusts nothing: names are checked before any of them becomes a path.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corerec.errors import InvalidArgument, ReleaseError

FORMAT_VERSION = 2
"""The format that this code writes, and the only one that it reads."""
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 16 * 1024 * 1024
REMEDY = "copy the release again from where it was made, or train a new one"

_CHUNK = 1024 * 1024
_SAFE_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
# The checksum covers every byte of the file, its own digits taken as zeros. Comparing bytes, not
# parsed values, also notices flips that JSON would forgive (e and E in a number or an escape).
_SELF = re.compile(rb'\A\{\n  "manifest_sha256": "([0-9a-f]{64})",\n')
_ZEROS = b"0" * 64


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """One file of a release."""

    sha256: str
    """SHA-256 of the content, 64 lower-case hex digits."""
    size: int
    """Size in bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The parsed and self-verified manifest of one release."""

    release: str
    """Id of the release, one safe path component."""
    created: str
    """When the release was committed, RFC 3339 in UTC."""
    info: dict[str, Any]
    """What the writer recorded: data set, counts, seed, end of the data."""
    files: dict[str, FileEntry]
    """Every file of the release by its name."""


def check_name(name: str, what: str, *, nested: bool = False) -> str:
    """Return `name`, a safe path component (with `nested`, several joined by `/`).

    Raises:
        InvalidArgument: the name is empty, absolute, hidden or has characters outside
            `A-Za-z0-9._-`.
    """
    parts = name.split("/") if nested else [name]
    if not all(_SAFE_PART.fullmatch(part) for part in parts):
        raise InvalidArgument(
            f"{what} must start with a letter or digit and hold only A-Z a-z 0-9 . _ -, "
            f"got {name!r}"
        )
    return name


def hash_file(path: Path) -> FileEntry:
    """Return the SHA-256 and size of a file, read once in chunks of 1 MiB."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return FileEntry(sha256=digest.hexdigest(), size=size)


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the bytes of manifest.json. Raises InvalidArgument when `info` is not plain JSON."""
    body = {
        "manifest_sha256": _ZEROS.decode(),
        "format_version": FORMAT_VERSION,
        "release": manifest.release,
        "created": manifest.created,
        "info": manifest.info,
        "files": {
            name: {"sha256": entry.sha256, "bytes": entry.size}
            for name, entry in sorted(manifest.files.items())
        },
    }
    try:
        text = json.dumps(body, indent=2, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"info of a release must be plain JSON: {error}") from None
    blank = text.encode() + b"\n"
    return blank.replace(_ZEROS, hashlib.sha256(blank).hexdigest().encode(), 1)


def decode_manifest(raw: bytes, path: Path) -> Manifest:
    """Return the manifest in `raw`, read from `path`.

    Raises:
        ReleaseError: it is damaged, of another format version or names unsafe files.
    """
    _check_self(raw, path)
    try:
        body = json.loads(raw)
        version = body["format_version"]
        if version != FORMAT_VERSION:
            raise ReleaseError(
                f"{path}: format_version must be {FORMAT_VERSION}, got {version!r}; "
                "use the CoreRec version that wrote this release, or train again with this one"
            )
        files = {
            check_name(name, "file name in a manifest", nested=True): FileEntry(
                sha256=str(entry["sha256"]), size=int(entry["bytes"])
            )
            for name, entry in body["files"].items()
        }
        return Manifest(
            release=check_name(body["release"], "release id"),
            created=str(body["created"]),
            info=dict(body["info"]),
            files=files,
        )
    except InvalidArgument as error:
        raise ReleaseError(f"{path}: {error}; do not use this release") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReleaseError(
            f"{path}: must be a release manifest, but {type(error).__name__}: {error}; {REMEDY}"
        ) from None


def _check_self(raw: bytes, path: Path) -> None:
    found = _SELF.match(raw)
    if not found:
        raise ReleaseError(
            f"{path}: must start with its own checksum (manifest_sha256); it is damaged or was "
            f"not written by CoreRec; {REMEDY}"
        )
    start, end = found.span(1)
    actual = hashlib.sha256(raw[:start] + _ZEROS + raw[end:]).hexdigest()
    if actual != found[1].decode():
        raise ReleaseError(
            f"{path}: SHA-256 must be {found[1].decode()}, got {actual}: the manifest is damaged "
            f"or was edited; {REMEDY}"
        )


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON: {value!r}")
