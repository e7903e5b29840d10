"""Counts the operations and bytes of the folded ranker: what a roofline is drawn from.

A multiplication and an addition are two operations. Bytes are those that come from memory or the
last cache: weights, and rows on their way through the steps, stay in a core's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from corerec.engines.dcn_net import Dcn, DcnConfig
from corerec.ranking.fold import Fold, fold
from corerec.ranking.precision import PRECISIONS, Precision


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network's shape, and how its inputs are parted."""

    name: str
    users: int
    items: int
    pairs: int
    config: DcnConfig

    def make(self) -> Dcn:
        """Return it with random weights, ready to serve."""
        torch.manual_seed(0)
        return Dcn(self.users + self.items + self.pairs, self.config).eval()


LARGE = Network(
    name="large",
    users=200,
    items=77,
    pairs=23,
    config=DcnConfig(cross_layers=3, cross_rank=64, deep=(256, 128)),
)
"""300 inputs, three cross layers of rank 64, 256-128-1."""
DEFAULT = Network(name="default", users=55, items=96, pairs=21, config=DcnConfig())
"""What `corerec train` makes of a catalogue with categories, tags, titles and images."""


def plain_operations_per_pair(network: Network) -> int:
    """Return the operations of the network as it is trained, for each pair."""
    dcn = network.make()
    weights = [module.weight.numel() for module in dcn.modules() if isinstance(module, nn.Linear)]
    weights += [w.numel() for name, w in dcn.cross.named_parameters() if not name.endswith("bias")]
    return 2 * sum(weights)


def operations_per_pair(folded: Fold) -> int:
    """Return the operations that the fold leaves for each pair."""
    return sum(2 * depth * columns for _, depth, columns in shapes(folded))


def operations_per_request(folded: Fold) -> int:
    """Return the operations that the fold does once for a request."""
    rank, total = folded.u_user.shape[1], 0
    for step in folded.steps:
        if step.of_user is not None:
            total += 2 * step.of_user.numel()
        if step.crossed is not None:
            total += step.crossed.numel() * (1 + 2 * step.below * rank)
    return total


def shapes(folded: Fold) -> list[tuple[str, int, int]]:
    """Return (name, K, N) of the steps' products, the request's matrices included."""
    rank, found = folded.u_user.shape[1], []
    for step in folded.steps:
        depth, columns = step.weight.shape
        below = step.below * rank if step.crossed is not None and folded.users else 0
        found.append((step.name, depth + below, columns))
    return found


def bytes_per_pair(network: Network, precision: Precision) -> int:
    """Return what is read and written for each pair: its item's row, comparisons, number, logit."""
    blocks = -(-network.items // 16)
    item = {"fp32": network.items * 4, "bf16": blocks * 32, "int8": blocks * 20}[precision]
    return item + network.pairs * 4 + 8 + 4


def count(network: Network, candidates: int) -> dict[str, float]:
    """Return everything counted of a network, for requests of so many candidates."""
    folded = fold(network.make(), network.users)
    pair, request = operations_per_pair(folded), operations_per_request(folded)
    return {
        "plain_operations_per_pair": plain_operations_per_pair(network),
        "operations_per_pair": pair,
        "operations_per_request": request,
        "operations_per_pair_in_all": pair + request / candidates,
        **{f"bytes_per_pair_{name}": bytes_per_pair(network, name) for name in PRECISIONS},
    }
