"""Configuration of the retrieval service: the front, and the shards behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from corerec.serving.config import StageConfig


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(StageConfig):
    """Query encoding and, unless there are shards, the search itself."""

    cache_seconds: Annotated[float, Field(ge=0, le=3600)] = 2.0
    """How long a user's query vectors are kept for the next request, seconds; 0 keeps none."""
    probe_share: Annotated[float, Field(ge=0, le=1)] = 0.001
    """Share of searches that are also made exactly, in the background, to measure recall."""
    shards: Annotated[int, Field(ge=1, le=1024)] = 1
    """Parts that the items are split into by number, each served by replicas of its own, see
    [shard]. 1 searches in the retrieval replica itself."""
    shard_share: Annotated[float, Field(gt=0, le=1)] = 0.8
    """How much of a request's time the shards may use; one that is later lowers coverage."""
    shard_in_flight: Annotated[int, Field(ge=1, le=64)] = 2
    """RPCs under way per replica of a shard; entries that arrive meanwhile leave together."""
    hedge_extra: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Most second calls, as a share of the first ones, to another replica of a late shard."""
    shard_addresses: tuple[tuple[str, ...], ...] = ()
    """`host:port` of every replica of each shard, without a cluster (`python -m retrieval_svc`)."""


@dataclass(frozen=True, kw_only=True)
class ShardConfig(StageConfig):
    """One shard of the items."""

    probe_share: Annotated[float, Field(ge=0, le=1)] = 0.001
    """Share of searches that are also made exactly, in the background, to measure recall."""
