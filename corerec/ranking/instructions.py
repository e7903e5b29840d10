"""Which instructions a machine has for precisions: whether bf16 or int8 gains on it at all."""

from __future__ import annotations

from collections.abc import Set
from functools import cache
from pathlib import Path

import torch

from corerec.ranking.precision import Precision

_FOR: dict[Precision, frozenset[str]] = {
    "bf16": frozenset({"amx_bf16", "cuda_bf16"}),
    "int8": frozenset({"amx_bf16"}),  # its codes are multiplied as bf16
}
KNOWN = frozenset({"amx_bf16", "amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "cuda_bf16"})
"""What tells machines apart: names as Linux tells them of a CPU, and cuda_bf16."""


def instructions_of(device: torch.device) -> frozenset[str]:
    """Return those of KNOWN that a device has; where a CPU does not tell, none."""
    if device.type == "cuda":
        return frozenset(
            {"cuda_bf16"} if torch.cuda.get_device_capability(device) >= (8, 0) else ()
        )
    return _of_cpu() if device.type == "cpu" else frozenset()


def suits(precision: Precision, instructions: Set[str]) -> bool:
    """Return whether a precision has instructions of its own there; fp32 needs none."""
    return precision == "fp32" or bool(_FOR[precision] & instructions)


@cache
def _of_cpu() -> frozenset[str]:
    # numba, which a machine that ranks on a GPU need not have.
    from corerec.ranking.tiles import has_amx

    told = Path("/proc/cpuinfo")
    words = told.read_text(encoding="utf-8").split() if told.exists() else []
    # The kernel may keep a CPU's tiles from a process.
    denied = () if has_amx() else ("amx_bf16", "amx_int8")
    return (KNOWN & frozenset(words)) - frozenset(denied)
