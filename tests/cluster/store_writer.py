"""A process that writes to a store from several threads until it is killed.

`python -m tests.cluster.store_writer ADDRESS OPTIONS LOG` forks a writer for each line on its
input, and answers with the writer's pid, then with "ended". Each write is told in the log before it
is tried, and again when it was acknowledged; a line is written whole or not at all.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from itertools import chain, count
from typing import Any

from corerec.errors import Unavailable
from corerec.store import Event, Item, Store, open_store
from corerec.store.redis import RedisStore  # noqa: F401  # imported before the fork, not after each

THREADS = 4
ITEMS_EACH = 12
BASE = "base"
"""The item that all events are of; number 0."""


class Log:
    """Appends lines that a kill cannot cut."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def tell(self, **line: Any) -> None:
        os.write(self._file, (json.dumps(line) + "\n").encode())


def plans(run: int, thread: int) -> Iterator[dict[str, Any]]:
    """Yield what one thread writes: its own items, and events of its own and of a shared user."""
    dice = random.Random(run * THREADS + thread)
    for number in count():
        kind = dice.choice(["put", "put", "delete", "add", "add"])
        stamp = (run * THREADS + thread) * 10_000 + number
        if kind == "add":
            user = dice.choice([f"own-{thread}", "shared"])
            yield {"kind": kind, "user": user, "times": [3 * stamp + i for i in range(3)]}
            continue
        ids = [f"t{thread}-{i}" for i in dice.sample(range(ITEMS_EACH), 2)]
        yield {"kind": kind, "ids": ids, "title": str(stamp)}


def do(store: Store, plan: dict[str, Any]) -> list[Any]:
    """Write what a plan says and return what was acknowledged."""
    if plan["kind"] == "add":
        events = [Event(plan["user"], BASE, 0, t, "x", str(t)) for t in plan["times"]]
        return [store.append_events(events)]
    if plan["kind"] == "put":
        items = [Item(item_id=item_id, title=plan["title"]) for item_id in plan["ids"]]
        return [[c.position, c.number, c.item_id] for c in store.upsert_items(items)]
    changes = [[c.position, c.number, c.item_id] for c in store.delete_items(plan["ids"])]
    left = [change for change in store.read_items(plan["ids"]) if change and change.item]
    assert not left, f"deleted items are still there: {left}"
    return changes


def write(store: Store, log: Log, run: int, thread: int, pending: list[dict[str, Any]]) -> None:
    """Write without end, first what is pending: what an earlier writer got no answer to."""
    numbers = count()
    for plan in chain(pending, plans(run, thread)):
        while True:
            key = f"{run}.{thread}.{next(numbers)}"
            log.tell(key=key, thread=thread, plan=plan)
            try:
                acked = do(store, plan)
            except Unavailable:
                time.sleep(0.01)
                continue
            except Exception as error:
                log.tell(key=key, wrong=repr(error))
                raise
            log.tell(key=key, acked=acked)
            break


def main() -> None:
    """Fork a writer for each line of the input: its run, and the pending plans of each thread."""
    address, options, path = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
    for line in sys.stdin:
        order = json.loads(line)
        if pid := os.fork():
            print(pid, flush=True)  # noqa: T201
            os.waitpid(pid, 0)
            print("ended", flush=True)  # noqa: T201
            continue
        while True:
            try:
                store = open_store(address, **options)
                break
            except Unavailable:
                time.sleep(0.01)
        log = Log(path)
        for thread in range(THREADS):
            pending = order["pending"][thread]
            arguments = (store, log, order["run"], thread, pending)
            threading.Thread(target=write, args=arguments).start()
        threading.Event().wait()


if __name__ == "__main__":
    main()
