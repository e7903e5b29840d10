"""Writes that survive a power cut: fsync of files and directories, atomic replacement."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def sync_file(path: Path) -> None:
    """Flush a file's content to the disk."""
    _sync(path, os.O_RDONLY)


def sync_directory(path: Path) -> None:
    """Flush a directory's entries to the disk."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and flush it to the disk."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_atomically(path: Path, content: bytes) -> None:
    """Replace the content of `path`: a reader sees the old content or the new, never a part."""
    staged = path.with_name(f".tmp-{path.name}-{secrets.token_hex(4)}")
    try:
        write_synced(staged, content)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    sync_directory(path.parent)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
