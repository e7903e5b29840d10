"""Platt scaling: makes the ranker's logits probabilities again after training on order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MIN_SCALE = 1e-3
"""The scale stays positive: calibration may never turn the order round."""
RIDGE = 1e-4
"""Pull towards scale 1 and bias 0, per example; keeps separable data finite."""


def fit_platt(logits: NDArray[np.float32], steps: int = 50) -> tuple[float, float]:
    """Return (scale, bias) that minimise the logistic loss of sigmoid(scale * logit + bias).

    Shapes: logits (B, 1 + n), column 0 positive. Source: Platt, "Probabilistic Outputs for Support
    Vector Machines", 1999; by damped Newton steps.
    """
    x = logits.astype(np.float64).ravel()
    labels = np.zeros(logits.shape)
    labels[:, 0] = 1
    y = labels.ravel()
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


def _loss(
    features: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64]
) -> float:
    z = features @ weights
    prior = np.array([1.0, 0.0])
    penalty = RIDGE / 2 * float(((weights - prior) ** 2).sum())
    return float((np.logaddexp(0, z) - y * z).mean()) + penalty
