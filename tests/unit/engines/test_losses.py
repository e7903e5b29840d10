"""Losses against plain NumPy."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from corerec.engines.losses import full_softmax, info_nce, sampled_info_nce


def _units(rows: int, seed: int) -> torch.Tensor:
    noise = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, 8, generator=noise), dim=-1)


def _numpy_softmax_loss(logits: np.ndarray, targets: np.ndarray) -> float:
    exp = np.exp(logits - logits.max(1, keepdims=True))
    share = exp[np.arange(len(targets)), targets] / exp.sum(1)
    return float(-np.log(share).mean())


def test_info_nce_equals_numpy() -> None:
    user, item, log_q = _units(6, 0), _units(6, 1), torch.linspace(-5, -1, 6)
    logits = user.numpy() @ item.numpy().T / 0.1 - log_q.numpy()
    expected = _numpy_softmax_loss(logits, np.arange(6))
    assert abs(float(info_nce(user, item, log_q, 0.1)) - expected) < 1e-5


def test_info_nce_leaves_out_other_rows_with_the_same_item() -> None:
    user, item, log_q = _units(4, 0), _units(4, 1), torch.zeros(4)
    item[3] = item[1]
    ids = torch.tensor([7, 8, 9, 8])
    logits = (user @ item.T / 0.1).numpy()
    logits[1, 3] = logits[3, 1] = -np.inf
    expected = _numpy_softmax_loss(logits, np.arange(4))
    assert abs(float(info_nce(user, item, log_q, 0.1, ids)) - expected) < 1e-5


def test_sampled_info_nce_equals_numpy_with_hits_left_out() -> None:
    user, positive, negatives = _units(5, 0), _units(5, 1), _units(7, 2)
    q_right, q_wrong = torch.linspace(-6, -3, 5), torch.linspace(-7, -2, 7)
    hits = torch.zeros(5, 7, dtype=torch.bool)
    hits[2, 3] = hits[4, 0] = True
    right = (user * positive).sum(1).numpy() / 0.2 - q_right.numpy()
    wrong = (user @ negatives.T).numpy() / 0.2 - q_wrong.numpy()
    wrong[hits.numpy()] = -np.inf
    expected = _numpy_softmax_loss(
        np.concatenate([right[:, None], wrong], axis=1), np.zeros(5, np.int64)
    )
    loss = sampled_info_nce(user, positive, negatives, q_right, q_wrong, 0.2, hits)
    assert abs(float(loss) - expected) < 1e-5


def test_sampled_loss_over_the_whole_catalogue_is_the_full_softmax() -> None:
    user, items = _units(5, 0), _units(9, 1)
    targets = torch.tensor([0, 3, 3, 8, 5])
    hits = targets[:, None] == torch.arange(9)[None]
    flat = torch.zeros(9)
    sampled = sampled_info_nce(user, items[targets], items, flat[:5], flat, 0.1, hits)
    assert abs(float(sampled) - float(full_softmax(user, items, targets, 0.1))) < 1e-5


def test_log_q_takes_off_what_popularity_adds() -> None:
    user, item = _units(3, 0), _units(3, 1)
    shifted = info_nce(user, item, torch.full((3,), -4.0), 0.1)
    assert abs(float(shifted) - float(info_nce(user, item, torch.zeros(3), 0.1))) < 1e-5
