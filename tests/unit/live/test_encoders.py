"""A vector set that an item does not bring is made by the encoder that made it for training."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from corerec.data import load_dataset
from corerec.data.spec import load_spec
from corerec.engines import TwoTower
from corerec.engines.two_tower_config import TwoTowerConfig, TwoTowerFitConfig
from corerec.live.content import ContentSide
from corerec.live.rows import items_of
from corerec.multimodal import EncodeJob, HashedNgramEncoder, encode_dataset
from corerec.multimodal.columns import texts
from corerec.multimodal.kept import ENCODERS, kept_encoders
from corerec.release import Release, ReleaseWriter


@pytest.fixture(scope="module")
def encoded(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose titles and list columns were encoded as the set "words"."""
    folder = tmp_path_factory.mktemp("words") / "data"
    shutil.copytree(tiny_data, folder)
    spec = load_spec(folder)
    columns = (spec.items.title, spec.items.category, *spec.items.multi)
    encoder = HashedNgramEncoder(32).fit(texts(folder, columns))
    encode_dataset(folder, [EncodeJob(name="words", text=columns, text_encoder=encoder)])
    return folder


def _release(data: Path, out: Path) -> Release:
    dataset = load_dataset(data)
    config = TwoTowerConfig(dim=16, heads=2, history_length=20, hidden=32)
    model = TwoTower(config=config, training=TwoTowerFitConfig(epochs=1)).fit(dataset)
    with ReleaseWriter(out) as writer:
        model.save(writer.path("two_tower.json").parent)
        for name, folder in kept_encoders(data, dataset.vectors).items():
            for file in folder.iterdir():
                shutil.copyfile(file, writer.path(f"{ENCODERS}/{name}/{file.name}"))
        return Release.open(writer.commit({"models": {"two_tower": model.model_id}}))


def test_a_missing_vector_is_computed_from_the_columns_that_the_encoder_read(
    encoded: Path, tmp_path: Path
) -> None:
    side = ContentSide.load(_release(encoded, tmp_path))
    data = load_dataset(encoded)
    items = items_of(data.items, data.vectors)[:20]
    whole = side.features(items)
    bare = [replace(i, vectors={n: v for n, v in i.vectors.items() if n != "words"}) for i in items]
    assert any("words" in item.vectors for item in items)
    np.testing.assert_allclose(side.features(bare).vectors, whole.vectors, atol=1e-6)
    silent = [replace(item, title="", category="", lists={}) for item in bare]
    assert np.abs(side.features(silent).vectors - whole.vectors).max() > 0.1


def test_an_encoder_is_not_kept_for_vectors_that_it_did_not_make(encoded: Path) -> None:
    assert list(kept_encoders(encoded, ["words", "other"])) == ["words"]
    spec = (encoded / "dataset.toml").read_text()
    name = load_spec(encoded).vectors["words"]
    shutil.copyfile(encoded / name, encoded / "mine.npy")
    (encoded / "dataset.toml").write_text(spec.replace(name, "mine.npy"))
    try:
        assert kept_encoders(encoded, ["words"]) == {}
    finally:
        (encoded / "dataset.toml").write_text(spec)
