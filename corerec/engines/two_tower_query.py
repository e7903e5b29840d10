"""Query encoder: users' recent events to unit vectors, from tables read once a release."""

# B users, L events, D width

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from corerec.engines import two_tower_kernel as kernel
from corerec.engines.memory import roomy
from corerec.engines.two_tower_net import TwoTowerNet
from corerec.engines.two_tower_shape import UserInputs
from corerec.engines.two_tower_user import HistoryAttention
from corerec.features import UserFeatures, context_features
from corerec.live.numbers import LiveRows
from corerec.stages import Float32s, Int64s

_NO_MOMENTS = np.empty(0, np.int64)
ROOM = 1024
"""Later items that the table has room for, besides a quarter of those of the training."""


class QueryEncoder:
    """Encodes batches of users; what depends on items alone is computed once."""

    def __init__(self, model: TwoTowerNet, base: Tensor) -> None:
        """Make the tables from `base`, (N + 1, D) of `TwoTowerNet.item_base`."""
        self.model = model.eval()
        self.length = model.config.history_length
        self.start = model.shape.items
        self._rows = LiveRows(self.start)
        self._weights: kernel.Weights | None = None
        if isinstance(self.model.user.history, HistoryAttention) and base.device.type == "cpu":
            self._weights = kernel.weights_of(self.model.user)
            self._profiles = kernel.Profiles(self.model.user)
        with torch.inference_mode():
            table = self._entries(base)
            # Room for later items: pages that nobody touched take no memory on a CPU.
            rows = len(table) + len(table) // 4 + ROOM
            self._table = roomy((rows, table.shape[1]), table.dtype, table.device)
            self._table[: len(table)] = table
        self._see_table()

    @torch.inference_mode()
    def extend(self, numbers: Int64s, base: Float32s) -> None:
        """Let items (n,) count in histories by these vectors, also those that came after training.

        It costs what n items cost. Not while another thread encodes.

        Shapes: numbers (n,), each once; base (n, D), before normalisation, such as
        `ContentSide.encode` gives.
        """
        if not len(numbers):
            return
        rows = torch.from_numpy(self._rows.put(numbers)).to(self._table.device)
        if (more := int(rows.max()) + 1 - len(self._table)) > 0:
            spare = self._table.new_zeros(max(more, len(self._table) // 4), self._table.shape[1])
            self._table = torch.cat([self._table, spare])
            self._see_table()
        fresh = torch.from_numpy(np.array(base)).to(self._table.device)
        self._table.index_copy_(0, rows, self._entries(fresh))

    def _see_table(self) -> None:
        """Keep the table as the array that the loop reads; asking torch each time costs more."""
        if self._weights is not None:
            self._seen = self._table.numpy()

    def _entries(self, base: Tensor) -> Tensor:
        """Return what the table holds of items, (R, 3D) or (R, D), of their vectors (R, D)."""
        history = self.model.user.history
        if isinstance(history, HistoryAttention):
            keys, values = history.tables(base)
            return torch.cat([keys, values, base], dim=1)
        members: Tensor = history.members(base)
        return members

    def encode(
        self, histories: Sequence[Int64s], users: UserFeatures, moments: Int64s | None
    ) -> Float32s:
        """Return vectors (B, D) to score by.

        Unknown numbers of a history are left out before its newest events are taken.

        Shapes: histories, B arrays of item numbers, oldest first; users, B rows; moments (B,)
        microseconds since 1970, used only when the data has times.
        """
        if not len(histories):
            return np.empty((0, self.model.config.dim), np.float32)
        if self._weights is None:
            return self.plain(histories, users, moments)
        timed = self.model.shape.has_times and moments is not None
        return kernel.encode(
            self._rows.history(np.concatenate(histories)),
            np.fromiter(accumulate(map(len, histories)), np.int64, len(histories)),
            self.start,
            self._seen,
            self._profiles.of(users),
            moments if moments is not None and timed else _NO_MOMENTS,
            self._weights,
        )

    @torch.inference_mode()
    def plain(
        self, histories: Sequence[Int64s], users: UserFeatures, moments: Int64s | None
    ) -> Float32s:
        """Do what `encode` does, in torch: the definition, and the form for other devices."""
        model = self.model
        if isinstance(model.user.history, HistoryAttention):
            seen = self._attend(model.user.history, histories)
        else:
            seen = self._average(histories)
        device = self._table.device
        profile = model.user.profile(UserInputs.of(users, device), None)
        context = None
        if model.shape.has_times and moments is not None:
            context = torch.from_numpy(context_features(moments)).to(device)
        out: Float32s = model.user.join(seen, profile, context).cpu().numpy()
        return out

    def pack(self, histories: Sequence[Int64s]) -> tuple[Int64s, NDArray[np.bool_]]:
        """Return rows of the newest known items of each history, newest first, and where there are.

        The start token ends a history that is shorter than the model looks back.

        Shapes: returns tokens (B, L) and present (B, L).
        """
        flat, lengths = self._known(histories)
        back = np.arange(max(1, min(self.length, int(lengths.max(initial=0)) + 1)))
        at = np.cumsum(lengths)[:, None] - 1 - back  # (B, L)
        inside = back < lengths[:, None]
        flat = np.append(flat, self.start)
        tokens = np.where(inside, flat[np.where(inside, at, -1)], self.start)
        return tokens, back <= lengths[:, None]

    def _known(self, histories: Sequence[Int64s]) -> tuple[Int64s, Int64s]:
        """Return rows of all known items of the histories, and how many each has, (B,)."""
        lengths = np.fromiter((len(h) for h in histories), np.int64, len(histories))
        flat = np.concatenate(histories) if len(histories) else np.empty(0, np.int64)
        flat = self._rows.history(flat)
        known = flat >= 0
        if not known.all():
            row = np.repeat(np.arange(len(histories)), lengths)
            flat = flat[known]
            lengths = np.bincount(row[known], minlength=len(histories))
        return flat, lengths

    def _attend(self, attention: HistoryAttention, histories: Sequence[Int64s]) -> Tensor:
        tokens, present = self.pack(histories)
        dim, device = self.model.config.dim, self._table.device
        gathered = self._table[torch.from_numpy(tokens).to(device)]  # (B, L, 3D)
        keys, values, base = (gathered[..., i * dim : (i + 1) * dim] for i in range(3))
        there = torch.from_numpy(present).to(device)
        return attention.newest(base[:, 0], keys, values, there)  # (B, D)

    def _average(self, histories: Sequence[Int64s]) -> Tensor:
        none = self.model.config.history == "none"
        flat, lengths = self._known([h[:0] for h in histories] if none else histories)
        # Newest `length` of each, and the start token where there is nothing.
        kept = np.minimum(lengths, self.length)
        sizes = np.maximum(kept, 1)
        starts = np.cumsum(sizes) - sizes
        place = np.arange(int(sizes.sum())) - np.repeat(starts, sizes)
        at = np.repeat(np.cumsum(lengths) - kept, sizes) + place
        at[np.repeat(kept == 0, sizes)] = len(flat)
        items = np.append(flat, self.start)[at]
        device = self._table.device
        return F.embedding_bag(
            torch.from_numpy(items).to(device),
            self._table,
            torch.from_numpy(starts).to(device),
            mode="mean",
        )  # (B, D)
