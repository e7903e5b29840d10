"""Hard negatives: the wrong items that the current model scores highest for each user."""

# U users, B users of a block, P items of the pool, K kept of each user

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from corerec.engines.sequences import Sequences
from corerec.engines.two_tower_config import TwoTowerFitConfig
from corerec.engines.two_tower_net import TwoTowerNet
from corerec.engines.two_tower_query import QueryEncoder
from corerec.engines.two_tower_shape import ItemContent, UserInputs
from corerec.features import UserFeatures

_POOL = 8192
"""Most items that are scored for a user."""
_BLOCK = 1024


def hard_items(
    model: TwoTowerNet,
    content: ItemContent,
    sequences: Sequences,
    users: UserInputs,
    fit: TwoTowerFitConfig,
    rng: np.random.Generator,
) -> NDArray[np.int32]:
    """Return (U, K) items that each user has not had and that score highest, -1 where too few.

    The query is the user's at the end of its training events. Source: Xiong et al., ICLR 2021
    (ANCE), sec. 3. What differs: the search is exact, over a random part of a large catalogue, and
    is renewed once an epoch.
    """
    model.eval()
    base = model.item_base(content)
    encoder = QueryEncoder(model, base)
    count = model.shape.items
    pool = np.sort(rng.permutation(count)[:_POOL])
    device = base.device
    vectors = model.item_vectors(base[torch.from_numpy(pool).to(device)])  # (P, D)
    place = np.full(count, -1, np.int64)
    place[pool] = np.arange(len(pool))
    kept = min(fit.hard_pool, len(pool))
    found = np.full((sequences.user_count, kept), -1, np.int32)
    table = UserFeatures(
        row=users.row.cpu().numpy(),
        categorical=users.categorical.cpu().numpy(),
        numeric=users.numeric.cpu().numpy(),
    )
    for start in range(0, sequences.user_count, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, sequences.user_count))
        spans = [(int(sequences.offsets[r]), int(sequences.offsets[r + 1])) for r in rows]
        histories = [sequences.items[a:b].astype(np.int64) for a, b in spans]
        moments = np.array([sequences.times[b - 1] if b > a else 0 for a, b in spans], np.int64)
        queries = torch.from_numpy(encoder.encode(histories, table.take(rows + 1), moments))
        scores = queries.to(device) @ vectors.T  # (B, P)
        for row, history in enumerate(histories):
            known = place[history]
            scores[row, torch.from_numpy(known[known >= 0]).to(device)] = -torch.inf
        best, order = scores.topk(kept, dim=1)
        chosen = pool[order.cpu().numpy()]
        found[rows] = np.where(best.isfinite().cpu().numpy(), chosen, -1)
    return found
