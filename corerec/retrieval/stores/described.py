"""What every store says of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod

from corerec.retrieval.stores.base import Bytes
from corerec.retrieval.stores.spec import IndexSpec, Metric


class Described(ABC):
    """Width, metric, spec and size of a store; what it holds, its class says."""

    def __init__(self, dim: int, metric: Metric, spec: IndexSpec) -> None:
        self._dim, self._metric, self._spec = dim, metric, spec

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return self._dim

    @property
    def metric(self) -> Metric:
        """What a score is."""
        return self._metric

    @property
    def spec(self) -> IndexSpec:
        """Kind and parameters in use."""
        return self._spec

    @property
    def nbytes(self) -> int:
        """Memory held, bytes."""
        return sum(vars(self.held()).values())

    @property
    def crowded(self) -> bool:
        """Whether additions may soon have to move everything."""
        return False

    @abstractmethod
    def held(self) -> Bytes:
        """Return the memory held by its use."""
