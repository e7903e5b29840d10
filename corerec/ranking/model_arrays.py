"""ModelArrays: the weights by which `user_side` and `pair_side` are computed outside of torch."""

# N items, E item width, L history, A attended history, F features

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from corerec.ranking.features import user_dense_width
from corerec.ranking.lanes import LANES
from corerec.ranking.model import RankingModel


def _array(weight: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(weight.detach().numpy())


@dataclass(frozen=True, kw_only=True)
class ModelArrays:
    """Views of a model's weights on a CPU, as the compiled loops read them."""

    user: NDArray[np.float32]
    """(U + 1, W) embeddings of users"""
    codes: NDArray[np.float32]
    """Of the attributes of users, one after the other, (codes, C)"""
    code_starts: NDArray[np.int64]
    """(Cu,) where each attribute's begin"""
    history: tuple[NDArray[np.float32], ...]
    """Embeddings of items of the history (N + 1, E), weights of its places (L,), weights and biases
    of the attended ones (A,)"""
    compared: tuple[NDArray[np.float32], ...]
    """Embeddings of candidates (N + 1, E), scale and offset of the pair features (F,)"""
    dense: slice
    """Where the numbers of `user_dense` are in the user's side"""
    width: int
    """Du, of the user's side"""
    groups: int
    """Groups of lanes for the attended places and one more"""

    @classmethod
    def of(cls, model: RankingModel) -> ModelArrays:
        """Return the arrays of a model, which is on a CPU and in evaluation mode."""
        scale = 1 / model.pair_std
        first = model.user.embedding_dim + sum(own.embedding_dim for own in model.user_codes)  # type: ignore[misc]
        codes = [_array(own.weight) for own in model.user_codes]  # type: ignore[arg-type]
        attended = min(model.config.attended, model.schema.history_length)
        return cls(
            user=_array(model.user.weight),
            codes=np.concatenate([np.zeros((0, model.config.code_width), np.float32), *codes]),
            code_starts=np.cumsum([0, *map(len, codes)])[:-1],
            history=(
                _array(model.history.weight),
                _array(model.history_weights),
                _array(model.lag_weights),
                _array(model.lag_bias),
            ),
            compared=(
                _array(model.item.weight),
                _array(scale),
                _array(model.pair_mean * scale),
            ),
            dense=slice(first, first + user_dense_width(model.schema)),
            width=model.user_side_width,
            groups=attended // LANES + 1,
        )
