"""Text encoders that were trained elsewhere: any sentence-transformers or Hugging Face folder."""

# n texts, D width of a vector

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from corerec.errors import ConfigError, InvalidArgument
from corerec.multimodal.encoder import fingerprint_of, import_extra
from corerec.stages import Float32s

_READ = (".json", ".txt", ".model", ".safetensors")
"""Files of a model folder that its vectors may depend on."""
_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


class SentenceEncoder:
    """Encodes text with the model in a local folder; nothing is ever looked up in a network.

    The folder is what `SentenceTransformer.save` or `save_pretrained` of a Hugging Face model and
    its tokenizer write; a model without pooling of its own gets the mean over its tokens (Reimers
    and Gurevych, EMNLP 2019, sec. 3). Weights are safetensors; code in the folder is not run. An
    empty text is the zero vector: missing. Text beyond the model's length is cut off.

    Raises:
        FailedPrecondition: where sentence-transformers is not installed; says what to install.
        InvalidArgument: when `path` is no folder, holds no model, or one that does not load.
    """

    def __init__(
        self, path: Path | str, *, batch_size: int = 64, device: str | None = None
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        self.path, self.batch_size = Path(path), batch_size
        _check_folder(self.path)
        library = import_extra("sentence_transformers", "text")
        try:
            with _without_bars():
                self._model: Any = library.SentenceTransformer(
                    str(self.path),
                    device=device,
                    local_files_only=True,
                    trust_remote_code=False,
                    model_kwargs={"use_safetensors": True},
                )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise InvalidArgument(f"{self.path}: the model does not load: {reason}") from error
        self._model.eval()
        self.name = self.path.resolve().name
        self._fingerprint = _fingerprint(self.path)
        self._dim = int(self._embed(["a"]).shape[1])

    @property
    def dim(self) -> int:
        """D."""
        return self._dim

    @property
    def fingerprint(self) -> str:
        """Digest of the folder's settings, vocabulary and weights."""
        return self._fingerprint

    def encode(self, contents: Sequence[str]) -> Float32s:
        """Return (n, D), L2-normalised, zero for a text of nothing but spaces.

        Raises:
            InvalidArgument: for a content that is not text.
        """
        if wrong := [text for text in contents if not isinstance(text, str)]:
            raise InvalidArgument(
                f"a text must be a str, empty where it is missing, got {type(wrong[0]).__name__}"
            )
        found = np.zeros((len(contents), self._dim), np.float32)
        there = [place for place, text in enumerate(contents) if text.strip()]
        if there:
            found[there] = self._embed([contents[place] for place in there])
        return found

    def _embed(self, texts: list[str]) -> Float32s:
        vectors = self._model.encode(
            texts,
            batch_size=self.batch_size,
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=True,
        )
        return np.asarray(vectors, np.float32)


def _check_folder(path: Path) -> None:
    """Raise InvalidArgument unless the folder holds a model without pickles."""
    if not path.is_dir():
        raise InvalidArgument(
            f"a text model must be a local folder, {path} is none; nothing is downloaded: "
            "save the model there first"
        )
    if not (path / "config.json").is_file() and not (path / "modules.json").is_file():
        raise InvalidArgument(f"{path}: a model folder must have config.json or modules.json")
    for file in sorted(path.rglob("*")):
        if file.suffix in _PICKLED and not any(file.parent.glob("*.safetensors")):
            raise InvalidArgument(
                f"{file}: weights must be safetensors, this is a pickle, which runs code as it "
                "loads; convert it once with save_pretrained(..., safe_serialization=True)"
            )
    if not any(path.rglob("*.safetensors")):
        raise InvalidArgument(f"{path}: a model folder must have weights in *.safetensors")


@contextmanager
def _without_bars() -> Iterator[None]:
    """Keep transformers from drawing a progress bar over the caller's output."""
    logging = import_extra("transformers.utils.logging", "text")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _fingerprint(path: Path) -> str:
    files = sorted(file for file in path.rglob("*") if file.suffix in _READ and file.is_file())
    digests = {}
    for file in files:
        with file.open("rb") as opened:
            digests[str(file.relative_to(path))] = hashlib.file_digest(opened, "sha256").hexdigest()
    return fingerprint_of("sentence", digests)
