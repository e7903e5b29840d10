"""Prints what is compiled once a core is warm, and after requests of every shape and kind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numba.core.dispatcher import Dispatcher
from ranking_world import Folder
from test_ranking_core import make_entry, ok
from test_ranking_live import change

from corerec.ranking.core import RankingCore
from corerec.stages import RankEntry


def compiled() -> Iterator[str]:
    """Each compiled function of the project with each of its signatures."""
    for name, module in sorted(sys.modules.items()):
        if name.startswith("corerec."):
            for own in vars(module).values():
                if isinstance(own, Dispatcher) and own.py_func.__module__ == name:
                    for signature in own.signatures:
                        yield f"{name}.{own.__name__}:{signature}".replace(" ", "")


def odd_entries() -> list[RankEntry]:
    """Entries with arrays off the wire, of other widths, and that are no whole arrays."""
    entry = make_entry(1)
    own, user = entry.candidates, entry.user

    def wire(array: np.ndarray) -> np.ndarray:
        return np.frombuffer(array.tobytes(), array.dtype)  # may not be written to

    off_wire = replace(
        own, numbers=wire(own.numbers), scores=wire(own.scores), sources=wire(own.sources)
    )
    return [
        replace(entry, candidates=off_wire),
        replace(entry, user=replace(user, items=wire(user.items), times=wire(user.times))),
        replace(entry, user=replace(user, items=user.items[::2], times=user.times[::2])),
        replace(entry, candidates=replace(own, scores=own.scores.astype(np.float64))),
        replace(entry, user=replace(user, items=user.items[:0], times=user.times[:0])),
    ]


core = RankingCore.load(Folder(Path(sys.argv[1]), 0), device="cpu")
core.warm()
sys.stdout.write(" ".join(compiled()) + "\n")
sizes = [make_entry(seed, count, history=seed) for seed, count in enumerate((1, 2, 39, 40, 17))]
for entries in ([], *([entry] for entry in odd_entries()), odd_entries(), sizes * 9):
    for result in core.run(entries):
        ok(result)
core.apply([change(1, 3), change(2, 60)])
ok(core.run([make_entry(3)])[0])
sys.stdout.write(" ".join(compiled()) + "\n")
