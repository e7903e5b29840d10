from __future__ import annotations

import numpy as np
import pytest
import torch

from corerec.engines.calibrate import platt
from corerec.engines.dcn import CrossLayer, Dcn, DcnConfig, listwise_loss, logistic_loss
from corerec.errors import InvalidArgument


def test_cross_layer_equals_the_formula_in_numpy() -> None:
    torch.manual_seed(0)
    layer = CrossLayer(5, 2)
    with torch.no_grad():
        layer.bias.normal_()
    x0, x = torch.randn(3, 5), torch.randn(3, 5)
    u, v, b = (p.detach().numpy() for p in (layer.u, layer.v, layer.bias))
    expected = np.empty((3, 5), np.float32)
    for row in range(3):
        expected[row] = x0[row].numpy() * (u @ (v.T @ x[row].numpy()) + b) + x[row].numpy()
    np.testing.assert_allclose(layer(x0, x).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_dcn_scores_each_row_alone_and_takes_none() -> None:
    torch.manual_seed(0)
    dcn = Dcn(7, DcnConfig(cross_rank=3, deep=(4,))).eval()
    rows = torch.randn(6, 7)
    together = dcn(rows)
    alone = torch.cat([dcn(row[None]) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    assert dcn(rows[:0]).shape == (0, 1)


def test_losses_equal_their_definitions() -> None:
    logits = torch.tensor([[1.0, -2.0, 0.5]])
    p = 1 / (1 + np.exp(-logits.numpy()[0]))
    expected = -(np.log(p[0]) + np.log(1 - p[1]) + np.log(1 - p[2])) / 3
    assert float(logistic_loss(logits)) == pytest.approx(expected, rel=1e-5)
    e = np.exp(logits.numpy()[0])
    assert float(listwise_loss(logits)) == pytest.approx(-np.log(e[0] / e.sum()), rel=1e-5)


@pytest.mark.parametrize(
    "wrong", [{"cross_layers": 0}, {"cross_rank": -1}, {"deep": ()}, {"dropout": 1.0}]
)
def test_sizes_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(wrong))):
        DcnConfig(**wrong)


def test_platt_recovers_scale_and_bias_and_survives_separable_data() -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal(200_000) * 2
    labels = rng.random(200_000) < 1 / (1 + np.exp(-(0.5 * logits - 1)))
    scale, bias = platt(logits, labels)
    assert scale == pytest.approx(0.5, abs=0.03)
    assert bias == pytest.approx(-1.0, abs=0.03)
    scale, bias = platt(np.array([5.0, -5.0] * 50), np.array([1, 0] * 50))
    assert np.isfinite([scale, bias]).all()
    assert scale > 0
    assert platt(np.array([-1.0, 1.0] * 50), np.array([1, 0] * 50))[0] > 0
