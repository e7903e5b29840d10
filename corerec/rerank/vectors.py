"""The vectors by which diversity compares items: of the release, and of items that change."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from corerec.errors import ReleaseError
from corerec.release import Release
from corerec.store.catalogue import Item

log = logging.getLogger(__name__)

VECTORS = "item_vectors.safetensors"

Encode = Callable[[Mapping[int, Item]], tuple[NDArray[np.int64], NDArray[np.float32]]]
"""Items by number to the numbers (n,) of those that can be read and their vectors (n, D)."""


def read_vectors(path: Path, rows: int) -> NDArray[np.float32]:
    """Return L2-normalised vectors (rows, D). Raises ReleaseError when a file has others."""
    try:
        with safe_open(path, framework="numpy") as file:
            vectors: NDArray[np.float32] = file.get_tensor("vectors")
    except (SafetensorError, OSError) as error:
        raise ReleaseError(f"{path}: must hold the tensor 'vectors': {error}") from None
    if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != rows:
        raise ReleaseError(
            f"{path}: vectors must be float32 of shape ({rows}, D), got {vectors.dtype} "
            f"{vectors.shape}"
        )
    if not np.isfinite(vectors).all():
        row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
        raise ReleaseError(f"{path}: vectors must be finite, row {row} is not")
    return vectors


def encoder_of(release: Release, width: int) -> Encode | None:
    """Return what encodes items that change, None where the release cannot."""
    if not (release.has("schema.json") and release.has("two_tower.json")):
        return None
    # Here, so that rules which compare no items need no torch.
    from corerec.live.content import ContentSide

    content = ContentSide.load(release)

    def encode(items: Mapping[int, Item]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        found = content.encode_good(np.array(list(items), np.int64), list(items.values()))
        for error in found.refused:
            log.warning("an item keeps its vector", extra={"reason": str(error)})
        return found.numbers, content.space(found, width)

    return encode
