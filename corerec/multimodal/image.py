"""The image encoder: any timm or torchvision backbone with weights from a local file."""

# n images, D width of the pooled features, S side of the square, in pixels

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from corerec.engines.files import digest
from corerec.errors import ConfigError, InvalidArgument
from corerec.multimodal.encoder import fingerprint_of, import_extra
from corerec.multimodal.pictures import PictureConfig, read_picture
from corerec.stages import Float32s

Library = Literal["timm", "torchvision"]


class ImageEncoder:
    """Encodes image files as the pooled features of a backbone, before its classifier.

    `weights` is a safetensors file of the backbone's state dict, with or without its classifier.
    Without one the weights are random, drawn from `seed`: features of a random network, good for
    trying the path and little else. Pickled weights (.pth, .bin) are refused. `pictures` defaults
    to the square, crop and normalisation that the backbone was trained with, as timm knows them.

    With `on_error="skip"` a file that is missing or broken becomes the zero vector and is kept in
    `broken`; otherwise it raises. None is an item without an image: the zero vector.

    Raises:
        FailedPrecondition: where the library is not installed; says what to install.
        ConfigError: for an unknown backbone or library.
        InvalidArgument: when the weights are not those of the backbone, or pickled.
    """

    def __init__(
        self,
        backbone: str,
        weights: Path | None = None,
        library: Library = "timm",
        *,
        pictures: PictureConfig | None = None,
        batch_size: int = 32,
        on_error: Literal["raise", "skip"] = "raise",
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        if library not in _MAKERS:
            raise ConfigError(f"library must be timm or torchvision, got {library!r}")
        if on_error not in ("raise", "skip"):
            raise ConfigError(f"on_error must be raise or skip, got {on_error!r}")
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        self.name, self.batch_size, self.on_error = backbone, batch_size, on_error
        self.broken: list[Path] = []
        """Files that `encode` has skipped."""
        # The libraries draw from torch's own generator only.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, head, usual = _MAKERS[library](backbone)
        self.pictures = pictures or usual
        if weights is not None:
            _load(model, head, Path(weights), backbone)
        self._device = torch.device(device)
        self._model = model.eval().requires_grad_(False).to(self._device)
        self._dim = self._width()
        settings = {"library": library, "backbone": backbone, **asdict(self.pictures)}
        self._fingerprint = fingerprint_of(
            "image", settings, digest(self._model.state_dict()).encode()
        )

    @property
    def dim(self) -> int:
        """D."""
        return self._dim

    @property
    def fingerprint(self) -> str:
        """Digest of backbone, weights and how images are cut and normalised."""
        return self._fingerprint

    def encode(self, contents: Sequence[Path | None]) -> Float32s:
        """Return (n, D), L2-normalised, zero for None and for skipped files.

        Raises:
            InvalidArgument: naming the first file that is missing or broken, unless skipped.
        """
        found = np.zeros((len(contents), self._dim), np.float32)
        places: list[int] = []
        squares: list[Float32s] = []
        for place, path in enumerate(contents):
            if path is not None and (square := self._square(Path(path))) is not None:
                places.append(place)
                squares.append(square)
            if squares and (len(squares) == self.batch_size or place == len(contents) - 1):
                found[places] = self._features(torch.from_numpy(np.stack(squares)))
                places, squares = [], []
        return found

    def _square(self, path: Path) -> Float32s | None:
        try:
            return read_picture(path, self.pictures)
        except InvalidArgument:
            if self.on_error == "raise":
                raise
            self.broken.append(path)
            return None

    @torch.inference_mode()
    def _features(self, squares: Tensor) -> Float32s:
        out = self._model(squares.to(self._device))  # (n, D)
        return F.normalize(out.float(), dim=-1).cpu().numpy()

    def _width(self) -> int:
        blank = torch.zeros(1, 3, self.pictures.size, self.pictures.size, device=self._device)
        with torch.inference_mode():
            out = self._model(blank)
        if out.dim() != 2:
            raise ConfigError(f"{self.name}: a backbone must give one vector an image, its output "
                              f"has shape {tuple(out.shape)}")  # fmt: skip
        return int(out.shape[1])


def _timm(backbone: str) -> tuple[nn.Module, tuple[str, ...], PictureConfig]:
    """Return the model without classifier, the classifier's names, and its usual pictures."""
    timm = import_extra("timm", "image")
    if not timm.is_model(backbone):
        raise ConfigError(f"timm has no backbone {backbone!r}; timm.list_models() names them")
    model = timm.create_model(backbone, pretrained=False, num_classes=0)
    own = timm.data.resolve_model_data_config(model)
    usual = PictureConfig(
        size=int(own["input_size"][-1]),
        crop=float(own["crop_pct"]),
        mean=tuple(own["mean"]),
        std=tuple(own["std"]),
    )
    named = model.pretrained_cfg.get("classifier") or ()
    return model, (named,) if isinstance(named, str) else tuple(named), usual


def _torchvision(backbone: str) -> tuple[nn.Module, tuple[str, ...], PictureConfig]:
    models = import_extra("torchvision.models", "image")
    if backbone not in models.list_models(module=models):
        raise ConfigError(
            f"torchvision has no backbone {backbone!r}; torchvision.models.list_models() names them"
        )
    extra: dict[str, Any] = {}
    if backbone in ("googlenet", "inception_v3"):
        extra = {"init_weights": True}  # else it warns that the default will change
    model = models.get_model(backbone, weights=None, **extra)
    # In all of its classifiers the last linear layer is the one that knows the classes.
    linears = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    if not linears:
        raise ConfigError(f"{backbone}: a backbone must end in a linear layer, this one has none")
    above, _, last = linears[-1].rpartition(".")
    setattr(model.get_submodule(above), last, nn.Identity())
    size = 299 if backbone == "inception_v3" else 224
    return model, (linears[-1],), replace(PictureConfig(), size=size)


_MAKERS = {"timm": _timm, "torchvision": _torchvision}


def _load(model: nn.Module, head: tuple[str, ...], path: Path, backbone: str) -> None:
    """Fill the model from a file that has exactly its weights, and its classifier's or not."""
    if path.suffix != ".safetensors":
        raise InvalidArgument(
            f"{path}: weights must be a .safetensors file; other formats are pickles, which may "
            "run code as they load. Convert once, where you trust the file: "
            "safetensors.torch.save_file(torch.load(file, weights_only=True), 'out.safetensors')"
        )
    try:
        tensors: Mapping[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InvalidArgument(f"{path}: not readable as safetensors: {error}") from None
    wanted = model.state_dict()
    kept = {
        name: tensor for name, tensor in tensors.items()
        if name in wanted or not name.startswith(tuple(f"{part}." for part in head))
    }  # fmt: skip
    for what, names in (
        ("lacks", set(wanted) - set(kept)),
        ("has besides", set(kept) - set(wanted)),
    ):
        if names:
            first = sorted(names)[0]
            raise InvalidArgument(
                f"{path}: must be the weights of {backbone}; it {what} {len(names)}, "
                f"the first is {first!r}"
            )
    for name, tensor in kept.items():
        if tensor.shape != wanted[name].shape:
            raise InvalidArgument(
                f"{path}: {name!r} must have shape {tuple(wanted[name].shape)} "
                f"in {backbone}, got {tuple(tensor.shape)}"
            )
        if not torch.isfinite(tensor).all():
            raise InvalidArgument(f"{path}: {name!r} must be finite, it has NaN or infinity")
    model.load_state_dict(kept)
