"""Training checkpoints: one safetensors file with JSON in its header, replaced atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and state so that a kill at any moment leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".tmp")
    # clone: safetensors refuses tensors that share memory, such as best and current weights.
    owned = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
    save_file(owned, fresh, metadata={"state": json.dumps(dict(state))})
    with fresh.open("rb") as file:
        os.fsync(file.fileno())
    fresh.replace(path)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return tensors and state, None when there is no checkpoint or it cannot be read."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads((file.metadata() or {})["state"])
            return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118
    except (SafetensorError, KeyError, json.JSONDecodeError):
        # Worth less than a clean start: training begins again and overwrites it.
        return None
