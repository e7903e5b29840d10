"""BERT4Rec as a model of the library: fit, encode, recommend, save and load."""

# B users, N items, D width inside, L positions

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Generator

from corerec.engines.bert4rec_batch import CLOCK
from corerec.engines.bert4rec_config import BERT4RecConfig, BERT4RecFitConfig
from corerec.engines.bert4rec_fit import BERT4RecFit, fit_bert4rec
from corerec.engines.bert4rec_net import BERT4RecNet
from corerec.engines.bert4rec_query import query
from corerec.engines.exact import ExactSearch
from corerec.engines.files import load_model, save_model
from corerec.engines.protocols import Report
from corerec.engines.sequences import Sequences, as_sequences
from corerec.errors import FailedPrecondition, InvalidArgument, ReleaseError
from corerec.stages import Float32s, Source, UserContext

if TYPE_CHECKING:
    from corerec.data.dataset import Dataset

_BATCH = 256
"""Users that are encoded at once."""


@dataclass(frozen=True, kw_only=True)
class BERT4RecHeader:
    """What bert4rec.json holds besides the weights' digest."""

    config: BERT4RecConfig
    training: BERT4RecFitConfig
    seed: int
    item_count: int
    has_times: bool
    end: int
    """Where the training data ends, microseconds since 1970; what `now` of 0 means."""


class BERT4Rec(ExactSearch):
    """Sequential retrieval: a bidirectional transformer predicts the masked next item.

    The vector at the mask after a user's history is the query; the dot product with an item's
    vector is the logit of the softmax over the catalogue, so it serves over the same index as any
    other model. The items' biases are one more dimension of the vectors.

    Source: Sun et al., BERT4Rec, CIKM 2019. What differs: a share of the batches trains the last
    position as serving asks for it (`BERT4RecFitConfig.last_share`; the paper's sec. 3.6 adds
    sequences whose last item alone is masked), many positions of a sequence in one pass; the hour
    and the gap before each event are embedded where the data has times; see `BERT4RecNet`.
    """

    kind = "bert4rec"
    source = Source.BERT4REC

    def __init__(
        self,
        embedding_dim: int | None = None,
        *,
        config: BERT4RecConfig | None = None,
        training: BERT4RecFitConfig | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        """Set the sizes; `embedding_dim` overrides `config.dim`. `auto` is CUDA where it is.

        Raises:
            ConfigError: for a size out of range.
        """
        config = config or BERT4RecConfig()
        self.config = config if embedding_dim is None else replace(config, dim=embedding_dim)
        self.training = training or BERT4RecFitConfig()
        self.seed = seed
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.history: BERT4RecFit | None = None
        """How the last `fit` went."""
        self.model_id = ""
        """Digest of the weights, after `save` or `load`."""
        self._net: BERT4RecNet | None = None
        self._end = 0

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

        `validate` is asked after each epoch, higher is better; the best epoch's weights are kept,
        without it the last's. With `checkpoint` a stopped run goes on to the same result.

        Raises:
            InvalidArgument: without events, or when the loss is not finite.
        """
        sequences = as_sequences(data) if events is None else events
        if not len(sequences):
            raise InvalidArgument("training needs at least one event, got 0")
        self._end = int(sequences.times.max())
        has_times = self.config.times == "auto" and int(sequences.times.min()) >= CLOCK
        noise = Generator().manual_seed(self.seed)
        net = BERT4RecNet(self.config, int(sequences.item_count), has_times, noise)
        self._net, self.model_id = net.to(self.device), ""

        def score() -> float:
            self._items = None
            if validate is None:
                return 0.0
            return validate(self)

        self.history = fit_bert4rec(
            net,
            sequences,
            self.training,
            seed=self.seed,
            validate=None if validate is None else score,
            report=report,
            checkpoint=checkpoint,
        )
        self._items = None
        return self

    @property
    def net(self) -> BERT4RecNet:
        """The network. Raises FailedPrecondition before fit."""
        if self._net is None:
            raise FailedPrecondition("BERT4Rec must be fitted or loaded first")
        return self._net

    @property
    def item_count(self) -> int:
        """N, after fit."""
        return self.net.item_count

    @torch.inference_mode()
    def encode_users(self, users: Sequence[UserContext]) -> Float32s:
        """Return (B, D + 1): the vectors at the mask after each history, then 1 for the bias.

        The newest max_len - 1 known items count; others are skipped. Without any the query is
        what the model learnt to expect of a user's first event.
        """
        net = self.net
        found = np.ones((len(users), self.config.dim + 1), np.float32)
        # Users of like history length go together: each batch is as long as its longest.
        order = np.argsort([len(user.items) for user in users], kind="stable")
        for start in range(0, len(users), _BATCH):
            rows = order[start : start + _BATCH]
            part = [users[row] for row in rows.tolist()]
            end = self._end if net.has_times else None
            both_ways = self.config.history == "both"
            batch = query(part, net.item_count, self.config.max_len, end, both_ways)
            batch = batch.to(self.device)
            hidden = net(batch.tokens, batch.allowed, batch.asked)[:, 0]  # (b, D)
            found[rows, :-1] = hidden.float().cpu().numpy()
        return found

    @torch.inference_mode()
    def encode_items(self) -> Float32s:
        """Return (N, D + 1): the tied embeddings, then each item's bias."""
        net = self.net
        vectors = torch.cat([net.item.weight[:-1], net.bias], 1)
        return vectors.cpu().numpy()

    def save(self, folder: Path) -> None:
        """Write bert4rec.json and bert4rec.safetensors into a folder."""
        net = self.net
        header = BERT4RecHeader(
            config=self.config,
            training=self.training,
            seed=self.seed,
            item_count=net.item_count,
            has_times=net.has_times,
            end=self._end,
        )
        self.model_id = save_model(folder, self.kind, header, net.state_dict())

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto") -> Self:
        """Return what `save` wrote; its scores are bit-equal.

        Raises:
            ReleaseError: naming the file that is missing, unreadable or not of this model.
        """
        header, tensors, model_id = load_model(folder, cls.kind, BERT4RecHeader)
        model = cls(config=header.config, training=header.training, seed=header.seed, device=device)
        net = BERT4RecNet(
            header.config, header.item_count, header.has_times, Generator().manual_seed(0)
        )
        try:
            net.load_state_dict(tensors)
        except RuntimeError as error:
            raise ReleaseError(f"{folder}: weights are not those of the header: {error}") from None
        model._net, model._end, model.model_id = net.to(model.device).eval(), header.end, model_id
        return model
