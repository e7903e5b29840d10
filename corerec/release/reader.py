"""Release: opens a release directory and refuses whatever is not exactly what was committed."""

from __future__ import annotations

import os
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from corerec.errors import InvalidArgument, ReleaseError
from corerec.release.catalogue import Catalogue, read_catalogue
from corerec.release.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    REMEDY,
    FileEntry,
    Manifest,
    check_name,
    decode_manifest,
    hash_file,
)
from corerec.release.writer import LATEST


class OpenRelease(Protocol):
    """What a core needs of a release."""

    @property
    def id(self) -> str:
        """Id of the release."""
        ...

    @property
    def info(self) -> dict[str, Any]:
        """What the manifest says."""
        ...

    @property
    def names(self) -> Collection[str]:
        """Names of the files."""
        ...

    def has(self, name: str) -> bool:
        """Say whether there is a file of this name."""
        ...

    def file(self, name: str) -> Path:
        """Return the path of a file; raise ReleaseError when there is none."""
        ...


class Release:
    """An opened release. Make one with `Release.open`."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Wrap a directory whose manifest has been read; `open` does the checks."""
        self.path = path
        self.manifest = manifest
        self._unread: set[str] = set()
        """Files to verify when they are asked for."""

    @classmethod
    def open(cls, path: Path | str, verify: bool = True, *, when_used: bool = False) -> Release:
        """Open the release in `path`, or the latest one when `path` holds several.

        Names, links, the presence and the size of every file are always checked; `verify` also
        reads every file and compares its SHA-256. With `when_used` a file is checked in all this
        when `file` is asked for it, and those that are never asked for need not be there.

        Raises:
            ReleaseError: naming the file, what was expected and what to do.
        """
        root = _resolve(Path(path))
        release = cls(root, _read_manifest(root / MANIFEST))
        release._check_entries()
        if when_used:
            release._unread = set(release.manifest.files)
            return release
        for name, entry in release.manifest.files.items():
            release._check_file(name, entry, verify)
        return release

    @property
    def id(self) -> str:
        """Id of the release."""
        return self.manifest.release

    @property
    def info(self) -> dict[str, Any]:
        """What the training recorded: data set, counts, seed, `data_end_micros`, ..."""
        return self.manifest.info

    @cached_property
    def catalogue(self) -> Catalogue:
        """The items, read at first use."""
        return read_catalogue(self.file("catalogue.parquet"))

    @property
    def rules_path(self) -> Path:
        """Path of the rerank rules."""
        return self.file("rules.toml")

    @property
    def names(self) -> Collection[str]:
        """Names of the files."""
        return self.manifest.files.keys()

    def has(self, name: str) -> bool:
        """Say whether the release holds the file `name`."""
        return name in self.manifest.files

    def file(self, name: str) -> Path:
        """Return the path of a file.

        Raises:
            ReleaseError: the manifest does not name it, or it is checked now and is not sound.
        """
        if name not in self.manifest.files:
            raise ReleaseError(
                f"release {self.id} in {self.path} has no file {name!r}; it holds "
                f"{', '.join(sorted(self.manifest.files))}; train again with this version"
            )
        if name in self._unread:
            self._check_file(name, self.manifest.files[name], verify=True)
            self._unread.discard(name)
        return self.path / name

    def _check_entries(self) -> None:
        """Refuse links, special files and files that the manifest does not name."""
        for folder, folders, files in os.walk(self.path):
            for entry in [*folders, *files]:
                path = Path(folder, entry)
                name = path.relative_to(self.path).as_posix()
                if path.is_symlink():
                    raise ReleaseError(f"{path}: must be a plain file, not a link; {REMEDY}")
                if path.is_dir() or name == MANIFEST or name in self.manifest.files:
                    continue
                raise ReleaseError(
                    f"{path}: is not in the manifest, and nothing is added to a release; "
                    "move the file away"
                )

    def _check_file(self, name: str, expected: FileEntry, verify: bool) -> None:
        path = self.path / name
        if not path.is_file():
            raise ReleaseError(f"{path}: missing, the manifest names it; {REMEDY}")
        if (size := path.stat().st_size) != expected.size:
            raise ReleaseError(f"{path}: size must be {expected.size} bytes, got {size}; {REMEDY}")
        if verify and (actual := hash_file(path).sha256) != expected.sha256:
            raise ReleaseError(
                f"{path}: SHA-256 must be {expected.sha256}, got {actual}: the file is damaged or "
                f"was changed; {REMEDY}"
            )


def _resolve(path: Path) -> Path:
    """Return the release directory that `path` means."""
    if not path.is_dir():
        raise ReleaseError(f"{path}: must be a release or a folder of releases; no such folder")
    pointer = path / LATEST
    if (path / MANIFEST).exists() or not pointer.is_file():
        return path
    try:
        target = check_name(pointer.read_text(encoding="utf-8").strip(), "release id")
    except (InvalidArgument, UnicodeDecodeError) as error:
        raise ReleaseError(
            f"{pointer}: must hold the id of a release: {error}; name the release's own folder"
        ) from None
    if not (path / target).is_dir():
        raise ReleaseError(
            f"{pointer}: names release {target!r}, which is not in {path}; "
            "name the folder of a release that is"
        )
    return path / target


def _read_manifest(path: Path) -> Manifest:
    if path.is_symlink():
        raise ReleaseError(f"{path}: must be a plain file, not a link; {REMEDY}")
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ReleaseError(f"{path}: must be at most {MAX_MANIFEST_BYTES} bytes; {REMEDY}")
        return decode_manifest(path.read_bytes(), path)
    except OSError as error:
        raise ReleaseError(
            f"{path}: cannot be read ({error.strerror}); is {path.parent} a release?"
        ) from None
