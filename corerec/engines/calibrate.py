"""Platt scaling: makes logits probabilities again after training on order, or on few rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from corerec.evaluation.metrics import auc, expected_calibration_error, logloss

MIN_SCALE = 1e-3
"""The scale stays positive: calibration may never turn the order round."""
RIDGE = 1e-4
"""Pull towards scale 1 and bias 0, per example; keeps separable data finite."""

Floats = NDArray[Any]


def platt(logits: Floats, labels: Floats, steps: int = 50) -> tuple[float, float]:
    """Return (scale, bias) that minimise the logistic loss of sigmoid(scale * logit + bias).

    Shapes: logits, labels (P,), labels in [0, 1]. Source: Platt, "Probabilistic Outputs for Support
    Vector Machines", 1999; by damped Newton steps. What differs: labels are not smoothed, a small
    pull towards (1, 0) keeps separable data finite instead.
    """
    x, y = logits.astype(np.float64), labels.astype(np.float64)
    weights = np.array([1.0, 0.0])
    prior = np.array([1.0, 0.0])
    features = np.stack([x, np.ones_like(x)], axis=1)  # (P, 2)
    loss = _loss(features, y, weights)
    for _ in range(steps):
        p = 0.5 * (1 + np.tanh(0.5 * (features @ weights)))
        gradient = features.T @ (p - y) / len(y) + RIDGE * (weights - prior)
        hessian = (features * (p * (1 - p))[:, None]).T @ features / len(y) + RIDGE * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        while (fresh := _loss(features, y, weights - step)) > loss and np.abs(step).max() > 1e-9:
            step = step / 2
        weights = weights - step
        if loss - fresh < 1e-12:
            break
        loss = fresh
    return max(float(weights[0]), MIN_SCALE), float(weights[1])


def calibration_report(
    logits: Floats, labels: Floats, scale: float, bias: float
) -> dict[str, float]:
    """Return AUC, logloss and expected calibration error, the last two before and after scaling.

    Shapes: logits, labels (P,). AUC is left out where there is one class alone.
    """
    right = (labels > 0.5).astype(np.int64)
    before = sigmoid(logits.astype(np.float64))
    after = sigmoid(scale * logits.astype(np.float64) + bias)
    found = {
        "logloss_before": logloss(right, before),
        "logloss": logloss(right, after),
        "ece_before": expected_calibration_error(right, before),
        "ece": expected_calibration_error(right, after),
    }
    return found | ({"auc": auc(right, logits.astype(np.float64))} if 0 < right.mean() < 1 else {})


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-x)) without overflow."""
    found: NDArray[np.float64] = 0.5 * (1 + np.tanh(0.5 * x))
    return found


def _loss(
    features: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64]
) -> float:
    z = features @ weights
    prior = np.array([1.0, 0.0])
    penalty = RIDGE / 2 * float(((weights - prior) ** 2).sum())
    return float((np.logaddexp(0, z) - y * z).mean()) + penalty
