"""Where a model is, and how arrays get there."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from corerec.errors import InvalidArgument


def choose_device(name: str) -> torch.device:
    """Return the device of "auto" (CUDA where there is one), "cpu" or "cuda".

    Raises:
        InvalidArgument: for another name, or for "cuda" where there is no such device.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InvalidArgument(f"device must be auto, cpu or cuda, got {name!r}")
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise InvalidArgument("device is cuda, but torch finds no CUDA device; use cpu or auto")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def send(array: NDArray[Any], device: torch.device) -> Tensor:
    """Return an array on a device; to CUDA it is copied beside the work that is under way.

    On CPUs the tensor shares the array's memory.
    """
    tensor = torch.from_numpy(array)
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
