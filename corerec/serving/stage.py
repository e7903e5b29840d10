"""What the gateway calls: one stage, wherever it runs. Here the one in this process."""

from __future__ import annotations

from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from corerec.errors import FailedPrecondition
from corerec.serving.batching import Answer, Batcher
from corerec.serving.budget import Budget

E_contra = TypeVar("E_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)
E = TypeVar("E")
R = TypeVar("R")


class Stage(Protocol[E_contra, R_co]):
    """One stage of the funnel, as the gateway sees it."""

    async def call(self, release: str, entry: E_contra, budget: Budget) -> R_co:
        """Return the entry's result; its timings include `queue`.

        Raises:
            CoreRecError: the status that the stage gave, or Unavailable, or DeadlineExceeded.
        """
        ...

    async def ready(self, seconds: float) -> bool:
        """Return whether the stage can be asked at full speed, within so many seconds."""
        ...

    async def close(self) -> None:
        """Let go of connections and threads."""
        ...


class LocalStage(Generic[E, R]):
    """A stage in this process, through the same batcher that a stage server uses."""

    def __init__(self, batcher: Batcher[E, R]) -> None:
        self._batcher = batcher

    async def call(self, release: str, entry: E, budget: Budget) -> R:
        """Return the entry's result. Raises FailedPrecondition for another release."""
        if release != self._batcher.core.release:
            raise FailedPrecondition(
                f"the stage must hold the pinned release, got {release!r}; "
                f"it holds {self._batcher.core.release!r}"
            )
        answer: Answer[R] = await self._batcher.call(entry, budget)
        return with_queue(answer.result, answer.queue_micros)

    async def ready(self, seconds: float) -> bool:
        """Return True: a core is warmed before it is given to a batcher."""
        return True

    async def close(self) -> None:
        """Finish what waits."""
        await self._batcher.close()


def with_queue(result: R, queue_micros: int) -> R:
    """Return the result with its waiting time first among its timings."""
    timings = {"queue": queue_micros, **result.timings}  # type: ignore[attr-defined]
    return replace(result, timings=timings)  # type: ignore[type-var]
