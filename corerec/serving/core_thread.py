"""The one thread that a core runs on: jobs in order, each reported to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

Done = Callable[[T | None, Exception | None], None]
"""Called in the event loop with a job's result, or with the error that it ended in."""

_Job = tuple[Callable[[], Any], Done[Any], asyncio.AbstractEventLoop]


def outcome(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """Return what `work` returns, or the error that it ends in."""
    try:
        return work(), None
    except Exception as error:
        return None, error
    except BaseException as error:  # a panic of a library in Rust: whoever runs this goes on
        return None, RuntimeError(f"{type(error).__name__}: {error}")


class CoreThread:
    """A thread and its queue.

    An executor does the same with a lock, a condition and a future of its own for each job: four
    times the time of a hop to the thread and back.
    """

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self.under_way = 0
        """Jobs that were started and have not been reported yet."""
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def start(self, work: Callable[[], T], done: Done[T]) -> None:
        """Run `work` after what was started before, then `done` in the running event loop."""
        self.under_way += 1
        self._jobs.put((work, done, asyncio.get_running_loop()))

    def _report(self, done: Done[Any], result: Any, error: Exception | None) -> None:
        self.under_way -= 1
        done(result, error)

    def run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Return what `work` returns or raises."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def done(result: T | None, error: Exception | None) -> None:
            if future.done():  # whoever waited left
                return
            if error is None:
                future.set_result(result)  # type: ignore[arg-type]  # T may be None
            else:
                future.set_exception(error)

        self.start(work, done)
        return future

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, done, loop = job
            result, error = outcome(work)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(self._report, done, result, error)
            del job, work, done, loop, result, error  # hold nothing while waiting

    def close(self) -> None:
        """End the thread after what was started."""
        self._jobs.put(None)
        self._thread.join()
