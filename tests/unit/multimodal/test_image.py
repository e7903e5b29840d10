"""The image encoder: backbones of both libraries, with weights that the tests make themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from corerec.errors import ConfigError, InvalidArgument
from corerec.multimodal import ImageEncoder
from corerec.multimodal.pictures import PictureConfig, read_picture

Image = pytest.importorskip("PIL.Image", reason="pip install corerec[image]")
timm = pytest.importorskip("timm", reason="pip install corerec[image]")
torchvision = pytest.importorskip("torchvision", reason="pip install corerec[image]")

TINY = "test_resnet"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six images in four formats and modes."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    paths = []
    for number, (mode, suffix, size) in enumerate(
        [
            ("RGB", "png", (200, 180)),
            ("RGB", "jpg", (64, 300)),
            ("L", "png", (40, 40)),
            ("RGBA", "png", (170, 230)),
            ("RGB", "webp", (180, 160)),
            ("P", "gif", (90, 160)),
        ]
    ):
        pixels = rng.integers(0, 256, (12, 12, 4), np.uint8)
        image = Image.fromarray(pixels, "RGBA").resize(size).convert(mode)
        paths.append(folder / f"{number}.{suffix}")
        image.save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a tiny backbone, classifier and all, as a trained file would have them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = timm.create_model(TINY, pretrained=False, num_classes=10)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return path


def test_weights_from_a_file_are_the_ones_that_encode(images: list[Path], weights: Path) -> None:
    encoder = ImageEncoder(TINY, weights)
    vectors = encoder.encode(images)
    assert vectors.shape == (6, encoder.dim)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.linalg.matrix_rank(vectors) == 6
    again = ImageEncoder(TINY, weights)
    assert np.array_equal(again.encode(images), vectors)
    assert again.fingerprint == encoder.fingerprint
    other = ImageEncoder(TINY)
    assert not np.allclose(other.encode(images), vectors, atol=1e-3)
    assert other.fingerprint != encoder.fingerprint


def test_features_are_those_of_the_backbone_itself(images: list[Path], weights: Path) -> None:
    encoder = ImageEncoder(TINY, weights)
    model = timm.create_model(TINY, pretrained=False, num_classes=10).eval()
    model.load_state_dict(load_file(weights))
    square = torch.from_numpy(read_picture(images[0], encoder.pictures))[None]
    with torch.inference_mode():
        pooled = model.forward_head(model.forward_features(square), pre_logits=True)[0]
    expected = pooled / pooled.norm()
    assert np.allclose(encoder.encode(images[:1])[0], expected.numpy(), atol=1e-5)


def test_the_same_seed_gives_the_same_untrained_backbone_and_leaves_torchs_chance_alone() -> None:
    before = torch.random.get_rng_state()
    prints = [ImageEncoder(TINY, seed=seed).fingerprint for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("backbone", ["shufflenet_v2_x0_5", "mobilenet_v3_small"])
def test_torchvision_backbones_give_what_their_classifier_sees(
    backbone: str, images: list[Path], tmp_path: Path
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = torchvision.models.get_model(backbone, weights=None).eval()
    path = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), path)
    pictures = PictureConfig(size=64)
    encoder = ImageEncoder(backbone, path, "torchvision", pictures=pictures)
    found = encoder.encode(images[:2])
    last = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1]
    assert encoder.dim == last.in_features
    seen: list[torch.Tensor] = []
    last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    squares = np.stack([read_picture(path, pictures) for path in images[:2]])
    with torch.inference_mode():
        model(torch.from_numpy(squares))
    expected = torch.nn.functional.normalize(seen[0], dim=-1)
    assert np.allclose(found, expected.numpy(), atol=1e-5)


def test_batches_of_none_one_and_many_agree(images: list[Path], weights: Path) -> None:
    encoder = ImageEncoder(TINY, weights, batch_size=4)
    whole = encoder.encode([*images, None])
    alone = np.concatenate([encoder.encode([path]) for path in [*images, None]])
    assert np.allclose(whole, alone, atol=1e-5)
    assert (whole[-1] == 0).all()
    assert encoder.encode([]).shape == (0, encoder.dim)
    assert (encoder.encode([None, None]) == 0).all()


def test_broken_files_are_named_or_skipped_and_counted(
    images: list[Path], weights: Path, tmp_path: Path
) -> None:
    cut, text, gone = tmp_path / "cut.jpg", tmp_path / "text.png", tmp_path / "gone.png"
    cut.write_bytes(images[1].read_bytes()[:400])
    text.write_text("no image")
    strict = ImageEncoder(TINY, weights)
    for path in (cut, text, gone):
        with pytest.raises(InvalidArgument, match=rf"{path.name}: not readable as an image"):
            strict.encode([images[0], path])
    lenient = ImageEncoder(TINY, weights, on_error="skip")
    found = lenient.encode([images[0], cut, text, gone, images[2]])
    assert (found[1:4] == 0).all()
    assert np.array_equal(found[[0, 4]], strict.encode([images[0], images[2]]))
    assert lenient.broken == [cut, text, gone]


def test_a_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("1", (3000, 2000)).save(tmp_path / "wide.png")
    monkeypatch.setattr("corerec.multimodal.pictures.MAX_PIXELS", 1_000_000)
    with pytest.raises(InvalidArgument, match="at most 1,000,000 pixels, got 3000 x 2000"):
        read_picture(tmp_path / "wide.png", PictureConfig())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5_000_000)  # Pillow itself warns
    with pytest.raises(InvalidArgument, match=r"wide\.png"):
        read_picture(tmp_path / "wide.png", PictureConfig())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)  # and then refuses
    with pytest.raises(InvalidArgument, match=r"wide\.png"):
        read_picture(tmp_path / "wide.png", PictureConfig())


def test_the_square_is_the_middle_normalised_and_turned(tmp_path: Path) -> None:
    pixels = np.zeros((80, 120, 3), np.uint8)
    pixels[:, :40], pixels[:, 40:80], pixels[:, 80:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "stripes.png")
    config = PictureConfig(size=40, crop=1, mean=(0, 0, 0), std=(1, 1, 1))
    square = read_picture(tmp_path / "stripes.png", config)
    assert square.shape == (3, 40, 40)
    assert np.allclose(square[:, 20, 20], [0, 1, 0], atol=1e-3)
    assert np.allclose(square[:, 20, 2], [1, 0, 0], atol=1e-3)
    assert np.allclose(square[:, 20, 37], [0, 0, 1], atol=1e-3)
    turned = Image.fromarray(pixels)
    exif = turned.getexif()
    exif[0x0112] = 6  # shot with the camera on its side
    turned.save(tmp_path / "turned.png", exif=exif)
    square = read_picture(tmp_path / "turned.png", config)
    assert np.allclose(square[:, 2, 20], [1, 0, 0], atol=1e-3)
    clear = Image.new("RGBA", (50, 50), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert np.allclose(read_picture(tmp_path / "clear.png", config), 1)  # on white
    scaled = read_picture(tmp_path / "clear.png", PictureConfig(size=8))
    assert np.allclose(
        scaled[:, 0, 0], (1 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225]
    )


def test_weights_of_another_kind_or_model_are_refused(tmp_path: Path, weights: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(InvalidArgument, match=r"weights\.pth: weights must be a \.safetensors"):
        ImageEncoder(TINY, tmp_path / "weights.pth")
    (tmp_path / "torn.safetensors").write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(InvalidArgument, match=r"torn\.safetensors: not readable as safetensors"):
        ImageEncoder(TINY, tmp_path / "torn.safetensors")
    tensors = load_file(weights)
    changes = {
        "lacks": {
            k: v for k, v in tensors.items() if k != "conv1.0.weight" and k != "conv1.weight"
        },
        "has besides": {**tensors, "more.weight": torch.zeros(1)},
    }
    name = next(k for k, v in tensors.items() if v.dim() == 4)
    changes["must have shape"] = {**tensors, name: torch.zeros(1, 1)}
    changes["must be finite"] = {**tensors, name: torch.full_like(tensors[name], torch.nan)}
    changes["lacks"] = {k: v for k, v in tensors.items() if k != name}
    for number, (rule, changed) in enumerate(changes.items()):
        path = tmp_path / f"{number}.safetensors"
        save_file(changed, path)
        with pytest.raises(InvalidArgument, match=rule):
            ImageEncoder(TINY, path)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="timm has no backbone 'resnet9000'"):
        ImageEncoder("resnet9000")
    with pytest.raises(ConfigError, match="torchvision has no backbone 'resnet9000'"):
        ImageEncoder("resnet9000", library="torchvision")
    with pytest.raises(ConfigError, match="library must be timm or torchvision, got 'keras'"):
        ImageEncoder(TINY, library="keras")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="on_error must be raise or skip, got 'ignore'"):
        ImageEncoder(TINY, on_error="ignore")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must end in a linear layer"):
        ImageEncoder("squeezenet1_1", library="torchvision")
    with pytest.raises(ConfigError, match=r"crop must be in \(0, 1\], got 0"):
        PictureConfig(crop=0)
