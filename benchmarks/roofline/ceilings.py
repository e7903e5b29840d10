"""What this machine can do, measured: products, reading, and a round trip over a socket."""

from __future__ import annotations

import resource
import socket
import threading
import time
from collections.abc import Callable, Iterable

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.roofline.counts import Kind, Product

SECONDS = 0.25
"""Length of one measurement; the best of several repetitions within it counts."""
LARGE = Product(rows=2048, inner=1024, outer=1024)
WORD = 8


def fastest(call: Callable[[], object], seconds: float = SECONDS) -> float:
    """Return the shortest time of a call, in seconds: what disturbs it only lengthens it."""
    call()
    shortest, end = np.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        call()
        shortest = min(shortest, time.perf_counter() - started)
    return float(shortest)


def product_rate(product: Product, kind: Kind) -> float:
    """Return operations a second of torch's matrix product on one core."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(product.rows, product.inner, generator=generator)
    b = torch.randn(product.inner, product.outer, generator=generator)
    if kind == "int8":
        left, right = (torch.clamp(x * 32, -127, 127).to(torch.int8) for x in (a, b))
        return product.operations / fastest(lambda: torch._int_mm(left, right))
    if kind == "bf16":
        a, b = a.bfloat16(), b.bfloat16()
    out = torch.empty(product.rows, product.outer, dtype=a.dtype)
    return product.operations / fastest(lambda: torch.mm(a, b, out=out))


def peak(kind: Kind) -> float:
    """Return operations a second of a large product on one core."""
    return product_rate(LARGE, kind)


def library_seconds(products: Iterable[Product], kind: Kind, together: int) -> float:
    """Return seconds a request that torch takes for the same products, so many requests together.

    Products of one row are computed as one of as many rows as there are requests.
    """
    total = 0.0
    for product in products:
        joined = Product(rows=product.rows * together, inner=product.inner, outer=product.outer)
        total += joined.operations / product_rate(joined, kind) / together
    return total


def read_rate(table: float, run: int) -> float:
    """Return bytes a second that one core reads of a table, in runs at random places.

    Args:
        table: bytes; at most a GiB is made of it.
        run: bytes that lie together.
    """
    words = int(min(table, 1 << 30)) // WORD
    length = max(1, run // WORD)
    data = np.zeros(max(words, length), np.int64)
    data += 1  # touched, so that it has pages of its own
    count = max(64, min(200_000, (32 << 20) // (length * WORD)))
    random = np.random.default_rng(0)
    least = fastest(lambda: None, 0.01)
    shortest = np.inf
    for _ in range(5):  # other places each time: the last ones' may still be near
        places = random.integers(0, len(data) - length + 1, count)
        _sum(data, places[:1], length)
        started = time.perf_counter()
        _sum(data, places, length)
        shortest = min(shortest, time.perf_counter() - started - least)
    return float(count * length * WORD / shortest)


@numba.njit(fastmath=True, nogil=True, cache=False)
def _sum(data: NDArray[np.int64], places: NDArray[np.int64], length: int) -> int:
    total = 0
    for place in places:
        own = 0
        for at in range(length):
            own += data[place + at]
        total += own
    return total


def round_trip(sent: int, answered: int, seconds: float = SECONDS) -> float:
    """Return core-seconds of both ends of one round trip over TCP on this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        caller = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    for end in (caller, server):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    echo = threading.Thread(target=_answer, args=(server, sent, bytes(answered)))
    echo.start()
    request, buffer, count = bytes(sent), bytearray(answered), 0
    before, until = _cpu(), time.perf_counter() + seconds
    while time.perf_counter() < until:
        caller.sendall(request)
        _receive(caller, buffer)
        count += 1
    used = _cpu() - before
    caller.close()
    echo.join()
    return used / count


def _answer(server: socket.socket, size: int, answer: bytes) -> None:
    buffer = bytearray(size)
    with server:
        while _receive(server, buffer):
            server.sendall(answer)


def _receive(end: socket.socket, buffer: bytearray) -> bool:
    """Fill the buffer; return whether the other end is still there."""
    view = memoryview(buffer)
    while view:
        got = end.recv_into(view)
        if not got:
            return False
        view = view[got:]
    return True


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
