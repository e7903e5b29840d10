"""FusedAdam against PyTorch's own optimiser, whose import it saves."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import nn

from corerec.engines.fused_adam import FusedAdam

SIZES = ((3, 4), (5,), (2, 2))


def _weights() -> list[nn.Parameter]:
    noise = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(size, generator=noise)) for size in SIZES]


def _pull(weights: list[nn.Parameter], step: int) -> None:
    loss = sum(((w - step).square() * (i + 1)).sum() for i, w in enumerate(weights[:2]))
    loss.backward()  # the third has no gradient


def test_it_moves_as_adamw_does_and_goes_on_from_its_state() -> None:
    ours, theirs = _weights(), _weights()
    own = FusedAdam(ours, weight_decay=0.1)
    oracle = torch.optim.AdamW(theirs, lr=0.01, weight_decay=0.1)
    for step in range(6):
        if step == 3:
            fresh = FusedAdam(ours, weight_decay=0.1)
            fresh.load(own.state())
            own = fresh
        for weights, optimizer in ((ours, own), (theirs, oracle)):
            for weight in weights:
                weight.grad = None
            _pull(weights, step)
            if optimizer is own:
                own.step(0.01)
            else:
                oracle.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert torch.equal(ours[2], _weights()[2])
    own.clear()
    assert all(weight.grad is None for weight in ours)


def test_a_step_does_not_load_the_compiler() -> None:
    code = (
        "import sys, torch\n"
        "from corerec.engines.fused_adam import FusedAdam\n"
        "w = torch.nn.Parameter(torch.ones(2))\n"
        "w.sum().backward()\n"
        "FusedAdam([w]).step(0.1)\n"
        "sys.exit('torch._dynamo' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
