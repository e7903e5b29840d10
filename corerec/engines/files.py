"""Saves and loads models: weights in safetensors, the rest in JSON that names their digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from corerec.config import build_config
from corerec.errors import FailedPrecondition, ReleaseError

FORMAT = 1
T = TypeVar("T")


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a digest of weights, 16 hexadecimal digits: vectors of one model say so."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def save_model(folder: Path, kind: str, header: Any, tensors: Mapping[str, Tensor]) -> str:
    """Write `<kind>.safetensors` and `<kind>.json` and return the weights' digest.

    `header` is a dataclass of everything besides weights, nested dataclasses allowed.

    Raises:
        FailedPrecondition: when a weight is not finite, before anything is written.
    """
    if (wrong := not_finite(tensors)) is not None:
        raise FailedPrecondition(f"weights must be finite to be saved, got NaN or Inf in {wrong}")
    folder.mkdir(parents=True, exist_ok=True)
    own = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    save_file(own, folder / f"{kind}.safetensors")
    found = digest(own)
    values = {"format": FORMAT, "kind": kind, "model_id": found, "header": asdict(header)}
    (folder / f"{kind}.json").write_text(json.dumps(values, indent=2) + "\n")
    return found


def load_model(folder: Path, kind: str, header: type[T]) -> tuple[T, dict[str, Tensor], str]:
    """Return header, weights and digest of what `save_model` wrote.

    Raises:
        ReleaseError: naming the file that is missing, unreadable, or not of this kind or weights.
        ConfigError: when the header has a wrong key or value.
    """
    path, weights = folder / f"{kind}.json", folder / f"{kind}.safetensors"
    try:
        values = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ReleaseError(f"{path}: not readable as JSON: {error}") from None
    named = values if isinstance(values, dict) else {}
    if named.get("format") != FORMAT or named.get("kind") != kind:
        raise ReleaseError(
            f"{path}: must be format {FORMAT} of kind {kind!r}, "
            f"got {named.get('format')!r} of {named.get('kind')!r}"
        )
    own = build_config(header, values.get("header"), source=path)
    try:
        tensors = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise ReleaseError(f"{weights}: not readable as safetensors: {error}") from None
    if (found := digest(tensors)) != named.get("model_id"):
        raise ReleaseError(
            f"{weights}: must be the weights of {named.get('model_id')}, "
            f"as {path.name} says, got {found}"
        )
    if (wrong := not_finite(tensors)) is not None:
        raise ReleaseError(f"{weights}: weights must be finite, got NaN or Inf in {wrong}")
    return own, tensors, found


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of a tensor with a NaN or Inf in it, None when there is none."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            return name
    return None
