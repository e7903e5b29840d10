"""ReleaseWriter: stages the files of a release and commits them in one atomic step."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from corerec.errors import InvalidArgument, ReleaseError
from corerec.release.durable import (
    replace_atomically,
    sync_directory,
    sync_file,
    write_synced,
)
from corerec.release.manifest import MANIFEST, Manifest, check_name, encode_manifest, hash_file

LATEST = "latest"


class ReleaseWriter:
    """Writes one release: files go to a hidden folder until `commit` makes all of them visible.

    Use it as a context manager; what was not committed when the block ends is removed.

        with ReleaseWriter(Path("releases")) as writer:
            write_catalogue(writer.path("catalogue.parquet"), items)
            writer.commit({"dataset": "ml-1m"})
    """

    def __init__(self, out: Path, release_id: str | None = None) -> None:
        """Prepare to write into `out`, which is created when it is missing.

        Raises:
            InvalidArgument: the id is not a safe path component, or is `latest`.
            ReleaseError: `out` already has a release of this id.
        """
        self.release_id = check_name(release_id or _new_id(), "release id")
        if self.release_id == LATEST:
            raise InvalidArgument(f"release id must not be {LATEST!r}: it names the pointer file")
        self._out = Path(out)
        self._staging = self._out / f".tmp-{self.release_id}-{secrets.token_hex(4)}"
        self._committed = False
        self._refuse_existing()

    def __enter__(self) -> Self:
        self._staging.mkdir(parents=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._committed:
            shutil.rmtree(self._staging, ignore_errors=True)

    def path(self, name: str) -> Path:
        """Return where to write the file `name`, such as `ranker.json`; folders are made."""
        check_name(name, "file name in a release", nested=True)
        if name == MANIFEST:
            raise InvalidArgument(f"file name must not be {MANIFEST!r}: commit() writes it")
        path = self._staging / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def commit(self, info: Mapping[str, Any]) -> Path:
        """Hash and flush every staged file, then make the release visible and the latest one.

        `info` is kept in the manifest; it must be plain JSON (NumPy scalars are converted).
        Returns the release's directory, `out/<release id>`.

        Raises:
            InvalidArgument: `info` is not plain JSON.
            ReleaseError: nothing was staged, a staged file is a link, or the id was taken.
        """
        if self._committed:
            raise ReleaseError(f"release {self.release_id} is committed; it cannot change")
        files = {}
        for name, path in self._staged_files().items():
            sync_file(path)
            files[name] = hash_file(path)
        manifest = Manifest(
            release=self.release_id,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            info=dict(info),
            files=files,
        )
        write_synced(self._staging / MANIFEST, encode_manifest(manifest))
        for folder in {path.parent for path in self._staging.rglob("*")}:
            sync_directory(folder)
        return self._publish()

    def _staged_files(self) -> dict[str, Path]:
        files = {}
        for path in sorted(self._staging.rglob("*")):
            name = path.relative_to(self._staging).as_posix()
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise ReleaseError(f"{path}: a release holds plain files only; write a copy of it")
            if path.is_file():
                files[check_name(name, "file name in a release", nested=True)] = path
        if not files:
            raise ReleaseError(f"release {self.release_id} has no files; write some, then commit")
        return files

    def _publish(self) -> Path:
        self._refuse_existing()
        final = self._out / self.release_id
        try:
            self._staging.rename(final)
        except OSError as error:
            raise ReleaseError(f"{final}: cannot move the release into place: {error}") from None
        self._committed = True
        sync_directory(self._out)
        replace_atomically(self._out / LATEST, f"{self.release_id}\n".encode())
        return final

    def _refuse_existing(self) -> None:
        if (final := self._out / self.release_id).exists():
            raise ReleaseError(f"{final}: exists, and a release never changes; use a new id")


def _new_id() -> str:
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
