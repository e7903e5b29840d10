"""Weighs the sources: how much each one's dot product counts in a candidate's score."""

# S sources, C cases, K candidates

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from corerec.errors import CoreRecError
from corerec.evaluation.cases import Cases
from corerec.evaluation.metrics import ndcg_at
from corerec.pipelines.parts import Parts
from corerec.retrieval.core import RetrievalCore
from corerec.retrieval.sources import VectorSource
from corerec.stages import Float32s, Int64s, RetrieveEntry

RATIOS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Weights that are tried for a source, relative to an equal spread with the first one."""
_BATCH = 256


def weigh(
    sources: Sequence[VectorSource], core: RetrievalCore, cases: Cases, parts: Parts, depth: int
) -> list[VectorSource]:
    """Return the sources with the weights of the best NDCG@10 over the candidates of the cases.

    The first source has weight 1; each of the others in turn is tried at RATIOS and kept out of
    the score where none is better. `cases` are validation cases, which no source learned from.
    """
    if len(sources) < 2 or not len(cases):
        return list(sources)
    dots, there, right = _dots(sources, core, cases, parts, depth)
    if not len(right):
        return list(sources)
    spread = [float(part.std(axis=1, where=there).mean()) for part in dots]
    total, weights = dots[0], [1.0]
    best = _quality(total, there, right)
    for part, own in zip(dots[1:], spread[1:], strict=True):
        kept = 0.0
        for ratio in RATIOS:
            weight = ratio * spread[0] / max(own, 1e-9)
            found = _quality(total + weight * part, there, right)
            if found > best:
                best, kept = found, weight
        total = total + kept * part
        weights.append(kept)
    return [replace(source, weight=w) for source, w in zip(sources, weights, strict=True)]


def _dots(
    sources: Sequence[VectorSource], core: RetrievalCore, cases: Cases, parts: Parts, depth: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_], Int64s]:
    """Return each source's dot products with the candidates, of cases whose right item is there.

    Shapes: returns dot products (S, C, K); whether there is such a candidate (C, K); the place of
    the right item (C,).
    """
    found, there, places = [], [], []
    for start in range(0, len(cases), _BATCH):
        rows = np.arange(start, min(start + _BATCH, len(cases)))
        users = parts.contexts(cases, rows)
        queries = [source.encode(users) for source in sources]
        results = core.run([RetrieveEntry(user=user, k=depth) for user in users])
        for row, result in enumerate(results):
            if isinstance(result, CoreRecError):
                raise result
            numbers = result.candidates.numbers
            place = np.flatnonzero(numbers == cases.right[rows[row]])
            if len(place):
                own = np.zeros((len(sources), depth), np.float32)
                for s, source in enumerate(sources):
                    own[s, : len(numbers)] = source.vectors[numbers] @ queries[s][row]
                np.nan_to_num(own, copy=False)  # a user whom a source has no query for
                found.append(own)
                there.append(np.arange(depth) < len(numbers))
                places.append(int(place[0]))
    if not found:
        empty = np.empty((len(sources), 0, depth), np.float32)
        return empty, np.empty((0, depth), np.bool_), np.empty(0, np.int64)
    return np.stack(found, axis=1), np.stack(there), np.array(places, np.int64)


def _quality(scores: Float32s, there: NDArray[np.bool_], right: Int64s) -> float:
    own = np.take_along_axis(scores, right[:, None], axis=1)  # (C, 1)
    above = ((scores >= own) & there).sum(axis=1) - 1
    return ndcg_at(above, 10)
