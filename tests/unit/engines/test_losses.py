"""Losses against plain NumPy."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from corerec.engines.losses import bce, bpr, full_softmax, info_nce, sampled_info_nce


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


def test_positives_that_share_a_query_weigh_alike_over_the_whole_catalogue() -> None:
    user, items = _units(2, 0), _units(9, 1)
    owner, targets = torch.tensor([0, 0, 1, 0]), torch.tensor([1, 4, 4, 7])
    logits = (user @ items.T / 0.3).numpy()
    expected = _numpy_softmax_loss(logits[owner.numpy()], targets.numpy())
    assert abs(float(full_softmax(user, items, targets, 0.3, owner=owner)) - expected) < 1e-5


def test_sampled_info_nce_of_shared_queries_with_hard_negatives_equals_numpy() -> None:
    user, positive, negatives = _units(2, 0), _units(3, 1), _units(5, 2)
    q_right, q_wrong = torch.linspace(-6, -3, 3), torch.linspace(-7, -2, 5)
    owner, hard = torch.tensor([1, 0, 1]), torch.tensor([[1.5, -1e4], [0.3, 2.0]])
    hits = torch.zeros(2, 5, dtype=torch.bool)
    hits[1, 2] = True
    own = user[owner]
    right = (own * positive).sum(1).numpy() / 0.2 - q_right.numpy()
    wrong = (own @ negatives.T).numpy() / 0.2 - q_wrong.numpy()
    wrong[hits[owner].numpy()] = -np.inf
    logits = np.concatenate([right[:, None], wrong, hard[owner].numpy()], axis=1)
    expected = _numpy_softmax_loss(logits, np.zeros(3, np.int64))
    loss = sampled_info_nce(
        user, positive, negatives, q_right, q_wrong, 0.2, hits, owner=owner, hard=hard
    )
    assert abs(float(loss) - expected) < 1e-5


def test_a_row_whose_negatives_are_all_hits_has_a_finite_gradient() -> None:
    user = _units(2, 0).requires_grad_()
    item, flat = _units(2, 1), torch.zeros(2)
    hits = torch.ones(2, 2, dtype=torch.bool)
    loss = sampled_info_nce(user, item, item, flat, flat, 0.1, hits)
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.isfinite(user.grad).all()  # type: ignore[arg-type]


def test_bpr_and_bce_equal_numpy_and_leave_out_false_negatives() -> None:
    noise = torch.Generator().manual_seed(0)
    right, wrong = torch.randn(4, generator=noise), torch.randn(4, 3, generator=noise)
    kept = torch.ones(4, 3, dtype=torch.bool)
    kept[1, 2] = kept[3, 0] = False
    r, w, k = right.numpy(), wrong.numpy(), kept.numpy()
    pairs = np.log1p(np.exp(-(r[:, None] - w)))[k]
    assert abs(float(bpr(right, wrong, kept)) - pairs.mean()) < 1e-6
    logistic = np.concatenate([np.log1p(np.exp(-r)), np.log1p(np.exp(w))[k]])
    assert abs(float(bce(right, wrong, kept)) - logistic.mean()) < 1e-6


def test_without_a_true_negative_bpr_is_zero() -> None:
    none = torch.zeros(2, 3, dtype=torch.bool)
    assert float(bpr(torch.zeros(2), torch.zeros(2, 3), none)) == 0
