"""Saves and loads a two-tower model: weights in safetensors, config, shape and id in JSON."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Generator

from corerec.config import build_config
from corerec.engines.two_tower_net import TwoTowerConfig, TwoTowerNet, TwoTowerShape
from corerec.errors import ReleaseError


@dataclass(frozen=True, kw_only=True)
class TwoTowerHeader:
    """What two_tower.json holds."""

    model_id: str
    """Digest of the weights; vectors of one model say so, and no other model's query meets them."""
    config: TwoTowerConfig
    shape: TwoTowerShape


def model_id(model: TwoTowerNet) -> str:
    """Return a digest of the weights, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def save_two_tower(model: TwoTowerNet, weights: Path, header: Path) -> str:
    """Write weights and header, and return the model's id."""
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    save_file(state, weights)
    own = TwoTowerHeader(model_id=model_id(model), config=model.config, shape=model.shape)
    header.write_text(json.dumps(asdict(own), indent=2) + "\n")
    return own.model_id


def load_two_tower(weights: Path, header: Path) -> tuple[TwoTowerNet, str]:
    """Return the model, ready to serve, and its id.

    Raises:
        ReleaseError: naming the file, when weights and header do not belong together.
        ConfigError: when the header has a wrong key or value.
    """
    try:
        values = json.loads(header.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ReleaseError(f"{header}: not readable as JSON: {error}") from None
    own = build_config(TwoTowerHeader, values, source=header)
    model = TwoTowerNet(own.config, own.shape, Generator().manual_seed(0))
    try:
        model.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ReleaseError(
            f"{weights}: not the weights that {header.name} describes: {error}"
        ) from None
    if (found := model_id(model)) != own.model_id:
        raise ReleaseError(
            f"{weights}: must be the weights of {own.model_id}, as {header.name} says, got {found}"
        )
    return model.eval(), own.model_id
