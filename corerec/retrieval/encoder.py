"""Query encoder: users' recent events to unit vectors, from tables read once a release."""

# B users, L events, D width

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from corerec.engines.two_tower_net import TwoTowerNet, UserInputs
from corerec.features import UserFeatures, context_features
from corerec.stages import Float32s, Int64s


class QueryEncoder:
    """Encodes batches of users; keys and values of every item are computed once."""

    def __init__(self, model: TwoTowerNet, base: Tensor) -> None:
        """Make the tables from `base`, (N + 1, D) of `TwoTowerNet.item_base`."""
        self.model = model.eval()
        self.length = model.config.history_length
        self.start = model.shape.items
        with torch.inference_mode():
            keys, values = model.user.tables(base)
            self._table = torch.cat([keys, values, base], dim=1)  # (N + 1, 3D)

    def pack(self, histories: Sequence[Int64s]) -> tuple[Int64s, NDArray[np.bool_]]:
        """Return the newest known items of each history, newest first, and where there are any.

        Unknown numbers are left out before the newest are taken; the start token ends a history
        that is shorter than the model looks back.

        Shapes: returns tokens (B, L) and present (B, L).
        """
        lengths = np.fromiter((len(h) for h in histories), np.int64, len(histories))
        flat = np.concatenate(histories) if len(histories) else np.empty(0, np.int64)
        row = np.repeat(np.arange(len(histories)), lengths)
        known = (flat >= 0) & (flat < self.start)
        if not known.all():
            flat, row = flat[known], row[known]
            lengths = np.bincount(row, minlength=len(histories))
        back = np.arange(max(1, min(self.length, int(lengths.max(initial=0)) + 1)))
        at = np.cumsum(lengths)[:, None] - 1 - back  # (B, L)
        inside = back < lengths[:, None]
        flat = np.append(flat, self.start)
        tokens = np.where(inside, flat[np.where(inside, at, -1)], self.start)
        return tokens, back <= lengths[:, None]

    def encode(
        self, histories: Sequence[Int64s], users: UserFeatures, moments: Int64s | None
    ) -> Float32s:
        """Return unit vectors (B, D).

        Shapes: histories, B arrays of item numbers, oldest first; users, B rows; moments (B,)
        microseconds since 1970, used only when the data has times.
        """
        tokens, present = self.pack(histories)
        return self.encode_tokens(tokens, present, users, moments)

    @torch.inference_mode()
    def encode_tokens(
        self,
        tokens: Int64s,
        present: NDArray[np.bool_],
        users: UserFeatures,
        moments: Int64s | None,
    ) -> Float32s:
        """Return unit vectors (B, D) of packed histories; see `encode`."""
        model, dim = self.model, self.model.config.dim
        if not len(tokens):
            return np.empty((0, dim), np.float32)
        device = self._table.device
        gathered = self._table[torch.from_numpy(tokens).to(device)]  # (B, L, 3D)
        keys, values, base = (gathered[..., i * dim : (i + 1) * dim] for i in range(3))
        seen = model.user.newest(
            base[:, 0], keys, values, torch.from_numpy(present).to(device)
        )  # (B, D)
        inputs = UserInputs(
            *(
                torch.from_numpy(np.array(array)).to(device)
                for array in (users.row, users.categorical, users.numeric)
            )
        )
        context = None
        if model.shape.has_times and moments is not None:
            context = torch.from_numpy(context_features(moments)).to(device)
        out: Float32s = model.user.join(seen, inputs, context, None).cpu().numpy()
        return out
