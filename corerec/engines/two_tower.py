"""`TwoTower`: the two-tower model as an estimator: fit, encode, recommend, save and load."""

# B users, N items, D width

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from corerec.engines.exact import ExactSearch
from corerec.engines.files import digest
from corerec.engines.protocols import Report
from corerec.engines.sequences import Sequences, as_sequences
from corerec.engines.two_tower_config import TwoTowerConfig, TwoTowerFitConfig
from corerec.engines.two_tower_files import TwoTowerHeader, read_two_tower, write_two_tower
from corerec.engines.two_tower_fit import TwoTowerFit, fit_two_tower
from corerec.engines.two_tower_inputs import TwoTowerInputs
from corerec.engines.two_tower_net import CHUNK, TwoTowerNet
from corerec.engines.two_tower_query import QueryEncoder
from corerec.engines.two_tower_shape import ItemContent, TwoTowerShape, UserInputs
from corerec.engines.workers import ALONE, Worker
from corerec.errors import FailedPrecondition, InvalidArgument
from corerec.features import UserFeatures
from corerec.stages import Float32s, Int64s, Source, UserContext

if TYPE_CHECKING:
    from corerec.data.dataset import Dataset


EMBEDDING_DIM = 128


class TwoTower(ExactSearch):
    """A tower over users and a tower over items that meet in a dot product.

    Items: id, categorical, list, numeric and vector features (text, image) and words of titles.
    Users: id, attributes, the moment, and their history by attention or as a bag. Source: Yi et
    al., RecSys 2019, sec. 3. What differs: see `two_tower_net`, `two_tower_user` and `losses`.
    """

    kind = "two_tower"
    source = Source.TWO_TOWER

    def __init__(
        self,
        embedding_dim: int | None = None,
        *,
        config: TwoTowerConfig | None = None,
        training: TwoTowerFitConfig | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        """Make a model that is not fitted; `embedding_dim`, where given, is `config.dim`.

        Without either it is 128.

        Raises:
            ConfigError: for a value out of range.
        """
        self.config = config or TwoTowerConfig(dim=EMBEDDING_DIM)
        if embedding_dim is not None:
            self.config = replace(self.config, dim=embedding_dim)
        self.training = training or TwoTowerFitConfig()
        self.seed = seed
        self.device = pick_device(device)
        self.history: TwoTowerFit | None = None
        """How the training went; None before it and after `load`."""
        self._net: TwoTowerNet | None = None
        self._inputs: TwoTowerInputs | None = None
        self._content: ItemContent | None = None
        self._encoder: QueryEncoder | None = None
        self._data_end = 0

    def fit(
        self,
        data: Dataset | Sequences,
        *,
        events: Sequences | None = None,
        validate: Callable[[Self], float] | None = None,
        checkpoint: Path | None = None,
        report: Report | None = None,
    ) -> Self:
        """Learn from all events of `data`, or from `events` alone, and return itself.

        A Dataset gives all features; Sequences give ids alone, and the id of user row i is "i".
        `validate` is asked after each epoch, higher is better; the best epoch's weights are kept.
        With `checkpoint` a run that was stopped goes on to the result of one that was not.

        Raises:
            InvalidArgument: without interactions, for a NaN, or when the loss is not finite.
        """
        inputs = TwoTowerInputs.of(data, history_length=self.config.history_length)
        return self.fit_inputs(
            inputs,
            as_sequences(data) if events is None else events,
            validate=validate,
            checkpoint=checkpoint,
            report=report,
        )

    def fit_inputs(
        self,
        inputs: TwoTowerInputs,
        events: Sequences,
        *,
        validate: Callable[[Self], float] | None = None,
        checkpoint: Path | None = None,
        report: Report | None = None,
        worker: Worker = ALONE,
    ) -> Self:
        """Do what `fit` does, with features that have been made already.

        With `worker` it is one of several processes that fit the same model on the same data.
        """
        schema = inputs.schema
        if events.item_count != schema.item_count or events.user_count != schema.user_count:
            raise InvalidArgument(
                f"events must be of {schema.user_count} users and {schema.item_count} items, "
                f"got {events.user_count} and {events.item_count}"
            )
        self._inputs = inputs
        self._data_end = int(events.times.max(initial=0)) if schema.has_times else 0
        content = ItemContent.of(inputs.items, self.device)

        def ask(net: TwoTowerNet) -> float:
            self._serve(net, content)
            return validate(self) if validate is not None else 0.0

        history = fit_two_tower(
            events,
            content,
            UserInputs.of(inputs.user_table, self.device),
            TwoTowerShape.of(schema),
            self.config,
            self.training,
            seed=self.seed,
            validate=None if validate is None else ask,
            report=report,
            checkpoint=checkpoint,
            worker=worker,
        )
        self.history = history
        self._serve(history.model, content)
        return self

    @property
    def item_count(self) -> int:
        """N, after fit."""
        return self.inputs.schema.item_count

    @property
    def net(self) -> TwoTowerNet:
        """The weights, after fit."""
        if self._net is None:
            raise FailedPrecondition("a TwoTower must be fitted or loaded first; call fit")
        return self._net

    @property
    def inputs(self) -> TwoTowerInputs:
        """Schema and tables, after fit."""
        if self._inputs is None:
            raise FailedPrecondition("a TwoTower must be fitted or loaded first; call fit")
        return self._inputs

    @property
    def encoder(self) -> QueryEncoder:
        """The encoder of queries, after fit."""
        if self._encoder is None:
            raise FailedPrecondition("a TwoTower must be fitted or loaded first; call fit")
        return self._encoder

    @property
    def model_id(self) -> str:
        """Digest of the weights: an index of these vectors says so."""
        return digest(self.net.state_dict())

    def encode_users(self, users: Sequence[UserContext]) -> Float32s:
        """Return (B, D). Unknown items of a history are skipped; an empty one is a cold user.

        A user of the training who comes without attributes has those of the training.

        Raises:
            InvalidArgument: when a numeric attribute is not a finite number.
        """
        moments = np.fromiter((u.now or self._data_end for u in users), np.int64, len(users))
        return self.encoder.encode([u.items for u in users], self._features(users), moments)

    def encode_items(self, out: Path | None = None) -> Float32s:
        """Return (N, D) by item number; with `out` a read-only memory-map of that .npy file.

        The tower runs over 65,536 items at once, so that with `out` a catalogue of any size needs
        the memory of one part. The file appears under its name when it is whole.
        """
        if out is None:
            return np.concatenate(list(self._item_parts()))
        shape = (self.item_count, self.config.dim)
        out.parent.mkdir(parents=True, exist_ok=True)
        fresh = out.with_name(out.name + ".tmp")
        target = np.lib.format.open_memmap(fresh, "w+", np.float32, shape)
        first = 0
        for part in self._item_parts():
            target[first : first + len(part)] = part
            first += len(part)
        target.flush()
        del target
        fresh.replace(out)
        found: Float32s = np.load(out, mmap_mode="r", allow_pickle=False)
        return found

    def extend(self, numbers: Int64s, base: Float32s) -> None:
        """Let items count in histories that came, or changed, after training; see the encoder's."""
        self.encoder.extend(numbers, base)

    def save(self, folder: Path) -> None:
        """Write two_tower.json, two_tower.safetensors and the inputs' three files into a folder."""
        header = TwoTowerHeader(
            config=self.config,
            training=self.training,
            shape=self.net.shape,
            seed=self.seed,
            data_end_micros=self._data_end,
        )
        write_two_tower(folder, self.kind, header, self.inputs, self.net)

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> Self:
        """Return what `save` wrote; on the device where it was saved its scores are bit-equal.

        Raises:
            ReleaseError: naming the file that is missing or does not belong to the others.
            ConfigError: when the header has a wrong key or value.
        """
        header, inputs, net = read_two_tower(folder, cls.kind)
        model = cls(config=header.config, training=header.training, seed=header.seed, device=device)
        model._inputs, model._data_end = inputs, header.data_end_micros
        _ = inputs.index, inputs.user_table  # made now, not at the first request
        model._serve(net.to(model.device), ItemContent.of(inputs.items, model.device))
        return model

    def _serve(self, net: TwoTowerNet, content: ItemContent) -> None:
        net.eval()
        self._net, self._content, self._items = net, content, None
        self._encoder = QueryEncoder(net, net.item_base(content))

    def _item_parts(self) -> Iterator[Float32s]:
        if self._content is None:
            raise FailedPrecondition("a TwoTower must be fitted or loaded first; call fit")
        left = self.item_count
        for part in self.net.item_chunks(self._content, CHUNK):
            with torch.inference_mode():
                vectors = self.net.item_vectors(part[:left])  # the start row comes last
            left -= len(vectors)
            yield vectors.cpu().numpy()

    def _features(self, users: Sequence[UserContext]) -> UserFeatures:
        inputs = self.inputs
        found = inputs.schema.encode_users(
            [user.user_id for user in users], [user.attributes for user in users], inputs.index
        )
        silent = [row for row, user in enumerate(users) if not user.attributes]
        if silent:
            known = inputs.user_table.take(found.row[silent])
            found.categorical[silent], found.numeric[silent] = known.categorical, known.numeric
        return found


def pick_device(wanted: str) -> torch.device:
    """Return the device to work on; `auto` is CUDA where there is one."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)
