"""The compiled inner loops of matrix factorization: transposition and conjugate gradients.

Each releases the interpreter's lock and works on a range of rows, so threads share a half step
without any knowing of the other. A row's result depends on its own interactions alone: the number
of threads changes nothing.
"""

# R rows, P interactions, K width

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from corerec.engines.compiled import compiled
from corerec.stages import Float32s, Int64s

Int32s = NDArray[np.int32]


@compiled
def transpose(
    offsets: Int64s, columns: Int32s, weights: Float32s, width: int
) -> tuple[Int64s, Int32s, Float32s]:
    """Return offsets, columns and weights of the transposed matrix of `width` rows."""
    out = np.zeros(width + 1, np.int64)
    for column in columns:
        out[column + 1] += 1
    place = np.empty(width, np.int64)
    for row in range(width):
        place[row] = out[row]
        out[row + 1] += out[row]
    rows = np.empty(len(columns), np.int32)
    values = np.empty(len(weights), np.float32)
    for row in range(len(offsets) - 1):
        for i in range(offsets[row], offsets[row + 1]):
            at = place[columns[i]]
            place[columns[i]] += 1
            rows[at] = row
            if len(weights):
                values[at] = weights[i]
    return out, rows, values


@compiled
def _dot(a: Float32s, b: Float32s) -> np.float32:
    found = np.float32(0)
    for c in range(len(a)):
        found += a[c] * b[c]
    return found


@compiled
def _add_items(
    out: Float32s,
    vector: Float32s,
    fixed: Float32s,
    columns: Int32s,
    weights: Float32s,
    first: int,
    last: int,
    target: np.float32,
    sign: np.float32,
) -> None:
    """Add the sum over interactions of w (target + sign * y.v) y to `out`."""
    width = len(out)
    i = first
    while i + 4 <= last:
        a, b = fixed[columns[i]], fixed[columns[i + 1]]
        c, d = fixed[columns[i + 2]], fixed[columns[i + 3]]
        p = q = r = s = np.float32(0)
        for j in range(width):
            v = vector[j]
            p += a[j] * v
            q += b[j] * v
            r += c[j] * v
            s += d[j] * v
        p, q = target + sign * p, target + sign * q
        r, s = target + sign * r, target + sign * s
        if len(weights):
            p, q = p * weights[i], q * weights[i + 1]
            r, s = r * weights[i + 2], s * weights[i + 3]
        for j in range(width):
            out[j] += p * a[j] + q * b[j] + r * c[j] + s * d[j]
        i += 4
    while i < last:
        a = fixed[columns[i]]
        p = target + sign * _dot(a, vector)
        if len(weights):
            p *= weights[i]
        for j in range(width):
            out[j] += p * a[j]
        i += 1


@compiled
def _times_gram(out: Float32s, vector: Float32s, gram: Float32s, penalty: np.float32) -> None:
    """Set `out` to (gram + penalty I) vector; gram is symmetric, its width a multiple of 4."""
    width = len(out)
    for j in range(width):
        out[j] = penalty * vector[j]
    for i in range(0, width, 4):
        a, b, c, d = gram[i], gram[i + 1], gram[i + 2], gram[i + 3]
        p, q, r, s = vector[i], vector[i + 1], vector[i + 2], vector[i + 3]
        for j in range(width):
            out[j] += p * a[j] + q * b[j] + r * c[j] + s * d[j]


@compiled
def conjugate_gradients(
    first: int,
    last: int,
    offsets: Int64s,
    columns: Int32s,
    weights: Float32s,
    fixed: Float32s,
    gram: Float32s,
    penalties: Float32s,
    solution: Float32s,
    steps: int,
) -> None:
    """Move rows [first, last) of `solution` towards (gram + penalty I + Y'WY) x = Y'w.

    Shapes: fixed (N, K), gram (K, K), penalties (R,), solution (R, K), the start and the result;
    K a multiple of 4. Rows without interactions become 0.
    """
    width = fixed.shape[1]
    residual = np.empty(width, np.float32)
    direction = np.empty(width, np.float32)
    image = np.empty(width, np.float32)
    one, zero = np.float32(1), np.float32(0)
    for row in range(first, last):
        start, end = offsets[row], offsets[row + 1]
        x = solution[row]
        if start == end:
            for j in range(width):
                x[j] = zero
            continue
        penalty = penalties[row]
        _times_gram(residual, x, gram, penalty)
        for j in range(width):
            residual[j] = -residual[j]
        _add_items(residual, x, fixed, columns, weights, start, end, one, -one)
        for j in range(width):
            direction[j] = residual[j]
        size = _dot(residual, residual)
        for _ in range(steps):
            if size < 1e-20:
                break
            _times_gram(image, direction, gram, penalty)
            _add_items(image, direction, fixed, columns, weights, start, end, zero, one)
            step = size / _dot(direction, image)
            for j in range(width):
                x[j] += step * direction[j]
                residual[j] -= step * image[j]
            fresh = _dot(residual, residual)
            share = fresh / size
            for j in range(width):
                direction[j] = residual[j] + share * direction[j]
            size = fresh
