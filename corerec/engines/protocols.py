"""What every model of the library offers, so that it takes any place of a funnel.

A retrieval model puts users and items into one space and scores by the dot product; it serves over
the same index as any other. A model of your own needs two methods: `fit` and, as a retriever,
`retrieve`, as a ranker, `score`, or, as a reranker, `rerank`.
"""

# B users, N items, D width of the space, n candidates

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from corerec.engines.sequences import Sequences
from corerec.stages import Candidates, Float32s, Int64s, UserContext

if TYPE_CHECKING:
    from corerec.data.dataset import Dataset

Report = Callable[[int, int, str], None]
"""Called with steps done, steps in all, and what to show beside the bar."""


@runtime_checkable
class Retriever(Protocol):
    """Anything that finds candidates: one of ours or one of yours."""

    def fit(self, data: Any, /) -> Any:
        """Learn from a Dataset."""
        ...

    def retrieve(self, users: Sequence[UserContext], k: int) -> Sequence[Candidates]:
        """Return each user's best `k`, best first, without what the user has seen."""
        ...


@runtime_checkable
class Ranker(Protocol):
    """Anything that scores candidates: one of ours or one of yours."""

    def fit(self, data: Any, /) -> Any:
        """Learn from a Dataset."""
        ...

    def score(self, users: Sequence[UserContext], candidates: Sequence[Int64s]) -> list[Float32s]:
        """Return a score for each candidate, higher is better, in the order given.

        Shapes: candidates, for each user (n,) item numbers; the result has the same shapes.
        """
        ...


@runtime_checkable
class Reranker(Protocol):
    """Anything that turns ranked candidates into the final list."""

    def fit(self, data: Any, /) -> Any:
        """Learn from a Dataset."""
        ...

    def rerank(self, candidates: Sequence[Candidates], k: int) -> Sequence[Candidates]:
        """Return the final list of each ranked list, at most `k`, best first.

        Items may be left out and their order and scores changed; none may be added.
        """
        ...


class VectorModel(Protocol):
    """A retrieval model of the library: dot products of user and item vectors are its scores.

    `recommend` and `retrieve` come from `corerec.engines.exact.ExactSearch`.
    """

    kind: str
    """The stem of its files and the name of its candidates' source, such as `bert4rec`."""

    def fit(
        self,
        data: Dataset | Sequences,
        *,
        events: Sequences | None = None,
        validate: Callable[[Self], float] | None = None,
        checkpoint: Path | None = None,
        report: Report | None = None,
    ) -> Self:
        """Learn from all events of `data`, or from `events` alone, and return itself.

        `validate` is asked after each epoch, higher is better; the best epoch's weights are kept.
        With `checkpoint` a run that was stopped goes on to the result of one that was not.
        """
        ...

    @property
    def item_count(self) -> int:
        """N, after fit."""
        ...

    def encode_users(self, users: Sequence[UserContext]) -> Float32s:
        """Return (B, D). Unknown items of a history are skipped; an empty one is a cold user."""
        ...

    def encode_items(self) -> Float32s:
        """Return (N, D) by item number."""
        ...

    def save(self, folder: Path) -> None:
        """Write `<kind>.json` and `<kind>.safetensors` (and what else it needs) into a folder."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return what `save` wrote; its scores are bit-equal."""
        ...
