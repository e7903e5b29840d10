"""The five files of a two-tower: weights and header, and the inputs that they were trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Generator

from corerec.engines.files import load_model, save_model
from corerec.engines.two_tower_config import TwoTowerConfig, TwoTowerFitConfig
from corerec.engines.two_tower_inputs import SCHEMA, TwoTowerInputs
from corerec.engines.two_tower_net import TwoTowerNet
from corerec.engines.two_tower_shape import TwoTowerShape
from corerec.errors import ReleaseError


@dataclass(frozen=True, kw_only=True)
class TwoTowerHeader:
    """What two_tower.json holds besides the weights' digest."""

    config: TwoTowerConfig
    training: TwoTowerFitConfig
    shape: TwoTowerShape
    seed: int
    data_end_micros: int
    """Moment of the newest training event; what `now` 0 of a user stands for."""


def write_two_tower(
    folder: Path, kind: str, header: TwoTowerHeader, inputs: TwoTowerInputs, net: TwoTowerNet
) -> None:
    """Write `<kind>.json`, `<kind>.safetensors` and the inputs' three files into a folder."""
    save_model(folder, kind, header, net.state_dict())
    inputs.save(folder)


def read_two_tower(folder: Path, kind: str) -> tuple[TwoTowerHeader, TwoTowerInputs, TwoTowerNet]:
    """Return what `write_two_tower` wrote.

    Raises:
        ReleaseError: naming the file that is missing or does not belong to the others.
        ConfigError: when the header has a wrong key or value.
    """
    header, tensors, _ = load_model(folder, kind, TwoTowerHeader)
    inputs = TwoTowerInputs.load(folder)
    shape = TwoTowerShape.of(inputs.schema)
    if shape != header.shape or len(inputs.items) != shape.items:
        raise ReleaseError(
            f"{folder / SCHEMA}: must be the schema that {kind}.json was trained with"
        )
    net = TwoTowerNet(header.config, header.shape, Generator().manual_seed(0))
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        raise ReleaseError(
            f"{folder / kind}.safetensors: not the weights that {kind}.json describes: {error}"
        ) from None
    return header, inputs, net
