"""The ranker's two files in a release: weights as safetensors, sizes and schema width as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from corerec.config import build_config
from corerec.errors import InvalidArgument
from corerec.features import FeatureSchema
from corerec.ranking.model import RankingModel, RankingModelConfig

WEIGHTS = "ranker.safetensors"
CONFIG = "ranker.json"
FORMAT = 1


def save_ranker(model: RankingModel, weights: Path, config: Path) -> None:
    """Write a model. Raises InvalidArgument when a weight is not finite."""
    state = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    if bad := [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]:
        raise InvalidArgument(f"weights must be finite, {bad} are not")
    save_file(state, weights)
    described = {
        "format": FORMAT,
        "tower_width": model.tower_width,
        "config": asdict(model.config),
    }
    config.write_text(json.dumps(described, indent=1) + "\n")


def load_ranker(schema: FeatureSchema, weights: Path, config: Path) -> RankingModel:
    """Return the model in its two files, in evaluation mode.

    Raises:
        InvalidArgument: when the files do not fit each other or the schema.
    """
    described = json.loads(config.read_text())
    if described.get("format") != FORMAT:
        raise InvalidArgument(
            f"{config.name}: format must be {FORMAT}, got {described.get('format')}"
        )
    sizes = build_config(RankingModelConfig, described["config"], source=config.name)
    with torch.device("meta"):  # no numbers are drawn for weights that are read
        model = RankingModel(schema, sizes, described["tower_width"])
    try:
        state = load_file(weights)
        # Releases from before there were several tasks hold one scale and bias as (2,).
        state["calibration"] = state["calibration"].view(-1, 2)
        model.load_state_dict(state, assign=True)
    except (RuntimeError, KeyError) as error:
        first = str(error).splitlines()[-1].strip()
        raise InvalidArgument(f"{weights.name} does not fit {config.name}: {first}") from None
    return model.eval()
