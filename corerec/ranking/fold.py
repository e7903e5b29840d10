"""Fold: a low-rank DCN-v2 parted into what is fixed, what is once a request and what is per pair.

Write x0 = [user | x], where x holds the item's inputs and the comparison's. The input of cross
layer l is x0 * g_l with g_l = c_l + sum_{m<l} U_m z_m, z_l = V_l^T (x0 * g_l) and
c_l = 1 + b_1 + .. + b_{l-1}. So whatever reads x0 * g_l with weights W (the next z, a head, the
first deep layer of stacked crosses) is

    W^T (x0 * g_l) = (c_l * W)^T user + (c_l * W)^T x
                   + W^T (x * sum U_m z_m) + sum (U_m^T diag(user) W)^T z_m

with the user's dimensions of W in the first and last term. The first is a vector a request, the
last a small matrix a request and layer; per pair are left products with x and z alone. This is
exact; `RankingModel.forward` is the oracle.

Here are the weights of these products, step by step, in the order of computation. How they are
computed is `kernel.py`'s on a CPU, `fold_device.py`'s on a GPU.
"""

# Du user's inputs, Dx inputs of the pair, R rank, M cross layers, H hidden, T tasks

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from corerec.engines.dcn_net import CrossLayer, Dcn


@dataclass(frozen=True, kw_only=True)
class Step:
    """One product a pair: out = act([parts] @ weight + z @ request + user @ of_user + bias).

    Parts are named by what made them: "x", "z0", "z1", .., "h0", "h1", .. and "y", which is
    x * sum U_m z_m of the z so far: a step named so adds to the sum before it multiplies. In
    z @ request, z are the first `below` of the z, and request is U^T diag(user) crossed.
    """

    name: str
    reads: tuple[str, ...]
    weight: Tensor
    """(sum of the parts' widths, N)"""
    act: Literal["none", "relu", "times x"] = "none"
    below: int = 0
    crossed: Tensor | None = None
    """(Du, N), the user's dimensions of W"""
    of_user: Tensor | None = None
    """(Du, N), the user's linear part"""
    bias: Tensor | None = None
    """(N,)"""


@dataclass(frozen=True, kw_only=True)
class Fold:
    """The steps of a network, of which "logits" is the last."""

    steps: tuple[Step, ...]
    u_user: Tensor
    """(M, R, Du): U^T on the user's dimensions"""
    users: int
    """Du"""
    wide: int
    """Dx"""


def folds(dcn: Dcn) -> bool:
    """Return whether a network can be folded: low-rank crosses, parallel or stacked.

    A full matrix has no small z to keep.
    """
    return bool(dcn.config.cross_rank)


@torch.no_grad()
def fold(dcn: Dcn, users: int) -> Fold:
    """Return the parted weights of `dcn`, whose first `users` inputs are the user's."""
    layers = [cast(CrossLayer, layer) for layer in dcn.cross]
    u = [layer.u.detach() for layer in layers]
    below = [own[users:].T.contiguous() for own in u]  # M of (R, Dx)
    constant = torch.ones(dcn.width, device=u[0].device)
    steps: list[Step] = []
    for place, layer in enumerate(layers):
        if place:
            steps.append(_scaled(below, place - 1))
        steps.append(_reader(f"z{place}", layer.v.detach(), None, constant, place, users))
        constant = constant + layer.bias.detach()
    steps.append(_scaled(below, len(layers) - 1))
    deep = layers_of(dcn.deep, dcn.norm)
    names = [f"h{place}" for place in range(len(deep))]
    first, bias = deep[0]
    head, head_bias = dcn.deep_head.weight.detach().T, dcn.deep_head.bias.detach()  # (H, T)
    depth = len(layers)
    if dcn.cross_head is None:
        steps.append(_reader("h0", first, bias, constant, depth, users, act="relu"))
        last = Step(name="logits", reads=(names[-1],), weight=head, bias=head_bias)
    else:
        steps.append(
            Step(
                name="h0", reads=("x",), weight=first[users:], act="relu",
                of_user=first[:users], bias=bias,
            )
        )  # fmt: skip
        crossed = dcn.cross_head.weight.detach().T  # (D, T)
        own = _reader("logits", crossed, head_bias, constant, depth, users)
        # The deep part's last layer is read in the same product.
        last = Step(
            name="logits", reads=(names[-1], *own.reads), weight=torch.cat([head, own.weight]),
            below=depth, crossed=own.crossed, of_user=own.of_user, bias=head_bias,
        )  # fmt: skip
    for place in range(1, len(deep)):
        weight, bias = deep[place]
        steps.append(
            Step(name=names[place], reads=(names[place - 1],), weight=weight, act="relu", bias=bias)
        )
    return Fold(
        steps=(*steps, last),
        u_user=torch.stack([own[:users].T for own in u]),
        users=users,
        wide=dcn.width - users,
    )


def _scaled(u: list[Tensor], place: int) -> Step:
    """Return the step that adds z of one place to the sum and makes y of it."""
    return Step(name="y", reads=(f"z{place}",), weight=u[place], act="times x")


def _reader(
    name: str,
    weight: Tensor,
    bias: Tensor | None,
    constant: Tensor,
    below: int,
    users: int,
    act: Literal["none", "relu"] = "none",
) -> Step:
    """Return the step that reads x0 * g, where g has the first `below` of the z."""
    linear = constant[:, None] * weight  # (D, N)
    parts = [linear[users:]] + [weight[users:]] * bool(below)
    return Step(
        name=name, reads=("x", "y")[: len(parts)], weight=torch.cat(parts), act=act, below=below,
        crossed=weight[:users] if below else None, of_user=linear[:users], bias=bias,
    )  # fmt: skip


def layers_of(linear: nn.ModuleList, norms: nn.ModuleList) -> list[tuple[Tensor, Tensor]]:
    """Return weights (in, out) and biases of layers, their normalisation, if any, folded in."""
    found = []
    for place, module in enumerate(linear):
        layer = cast(nn.Linear, module)
        weight, bias = layer.weight.detach().T, layer.bias.detach()
        if len(norms):
            norm = cast(nn.BatchNorm1d, norms[place])
            mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
            scale = norm.weight.detach() / torch.sqrt(var + norm.eps)
            weight, bias = weight * scale, (bias - mean) * scale + norm.bias.detach()
        found.append((weight, bias))
    return found


def evaluate(folded: Fold, user: Tensor, x: Tensor) -> Tensor:
    """Return logits (B, n, T) by the steps, one product after the other: what kernels must equal.

    Shapes: user (B, Du), x (B, n, Dx).
    """
    parts, total = {"x": x}, torch.zeros_like(x)
    for step in folded.steps:
        out = torch.cat([parts[name] for name in step.reads], dim=-1) @ step.weight
        if step.crossed is not None:
            scaled = user[:, :, None] * step.crossed  # (B, Du, N)
            below = folded.u_user[: step.below].flatten(0, 1)  # (below R, Du)
            z = torch.cat([parts[f"z{m}"] for m in range(step.below)], dim=-1)
            out = out + z @ (below @ scaled)
        if step.of_user is not None:
            out = out + (user @ step.of_user)[:, None]
        if step.bias is not None:
            out = out + step.bias
        if step.act == "relu":
            out = out.relu()
        if step.act == "times x":
            total = total + out
            out = total * x
        parts[step.name] = out
    return parts["logits"]
