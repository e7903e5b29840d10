"""What every encoder of content offers, and how the heavy ones are imported."""

# n contents, D width of a vector

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol, TypeVar

from corerec.errors import FailedPrecondition
from corerec.stages import Float32s

Content_contra = TypeVar("Content_contra", contravariant=True)


class ContentEncoder(Protocol[Content_contra]):
    """Turns contents, text or paths of images, into vectors; one of ours or one of yours."""

    @property
    def name(self) -> str:
        """What it is called in reports."""
        ...

    @property
    def dim(self) -> int:
        """D."""
        ...

    @property
    def fingerprint(self) -> str:
        """Digest of everything that its vectors depend on besides the content."""
        ...

    def encode(self, contents: Sequence[Content_contra]) -> Float32s:
        """Return (n, D), L2-normalised; zero where there is nothing to encode."""
        ...


def import_extra(module: str, extra: str) -> Any:
    """Return a module that only an optional extra installs.

    Raises:
        FailedPrecondition: saying what to install, when it is not there.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        # A broken installation of the module itself is another matter: say that one as it is.
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise FailedPrecondition(
            f"{module} is not installed; it comes with: pip install 'corerec[{extra}]'"
        ) from None


def fingerprint_of(name: str, values: Mapping[str, object], *blobs: bytes) -> str:
    """Return 32 hexadecimal digits of a name, settings and weights' bytes."""
    found = hashlib.sha256(repr((name, sorted(values.items()))).encode())
    for blob in blobs:
        found.update(len(blob).to_bytes(8, "little"))
        found.update(blob)
    return found.hexdigest()[:32]
