"""Branches of a graph: work that a GPU may do beside other work."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch

T = TypeVar("T")


@cache
def _stream(device: torch.device, number: int) -> Any:
    # A priority of its own: torch hands streams out in turn, and one that is captured on must not
    # be what a batch runs on.
    return torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]


def aside(number: int, device: torch.device, work: Callable[[], T]) -> Callable[[], T]:
    """Begin `work`, and return what waits for it and returns its result.

    In a graph that is being captured it is a branch until then, one of each number at a time;
    elsewhere it is done at once. Only one thread may capture.
    """
    if device.type != "cuda" or not torch.cuda.is_current_stream_capturing():
        found = work()
        return lambda: found
    own = _stream(device, number)
    own.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(own):
        found = work()

    reads = [work]  # made by the stream that goes on: it would use that memory again

    def wait() -> T:
        torch.cuda.current_stream(device).wait_stream(own)
        reads.clear()
        return found

    return wait
