"""Configuration of the gateway."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from corerec.serving.config import ServerConfig

_Addresses = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class StageAddresses:
    """Where the stages listen when no cluster announces them (`python -m gateway`)."""

    retrieval: _Addresses = ()
    """`host:port` of every retrieval replica."""
    ranking: _Addresses = ()
    """`host:port` of every ranking replica."""
    rerank: _Addresses = ()
    """`host:port` of every rerank replica."""


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How much of the time that is left each stage may use, (0, 1]."""

    profile: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Reading the user from the store."""
    retrieve: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Retrieval."""
    rank: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Ranking."""
    rerank: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Reranking."""


@dataclass(frozen=True, kw_only=True)
class GatewayConfig(ServerConfig):
    """The public service."""

    port: Annotated[int, Field(ge=0, le=65535)] = 50051
    """Public port."""
    share_port: bool = True
    """Several gateway replicas of one machine listen on the same port."""
    default_deadline_ms: Annotated[int, Field(ge=1, le=60_000)] = 500
    """Budget of a call that brings no deadline, milliseconds."""
    max_deadline_ms: Annotated[int, Field(ge=1, le=600_000)] = 10_000
    """Longest budget that a caller can have, milliseconds."""
    max_requests: Annotated[int, Field(ge=1)] = 256
    """Recommend and Explain calls answered at once; one more gets RESOURCE_EXHAUSTED."""
    groups: Annotated[int, Field(ge=0, le=10_000)] = 2
    """Groups of Recommend calls under way at once, whatever their size. What arrives meanwhile
    starts together as the next; 0 sets no bound."""
    full_groups: Annotated[int, Field(ge=1, le=10_000)] = 8
    """Groups under way at once where each that is begun beside `groups` others is full; not less
    than `groups` are. For each stage one that it computes and one that waits there, and two at the
    gateway."""
    full_group: Annotated[int, Field(ge=1, le=10_000)] = 6
    """Calls that wait when a group of them is full."""
    retrieve_k: Annotated[int, Field(ge=1, le=2000)] = 500
    """Candidates asked of retrieval."""
    rank_k: Annotated[int, Field(ge=1, le=2000)] = 100
    """Candidates that ranking passes on to reranking."""
    rank_history: Annotated[int, Field(ge=1, le=1000)] = 64
    """Newest events of the user that are sent to ranking; not less than the release's
    history_length, or ranking is served less than it was trained on."""
    store: str = "corerec.db"
    """Store of users, events and the live catalogue: the path of a SQLite file, made when it is not
    there, or redis://host:port/number."""
    tail_ms: Annotated[int, Field(ge=1, le=60_000)] = 100
    """How often the store is asked for changes of the catalogue, milliseconds. A delete is
    acknowledged after twice this time; the same in every gateway."""
    max_catalogue_writes: Annotated[int, Field(ge=1, le=100_000)] = 256
    """UpsertItems and DeleteItems calls that may wait; one more gets RESOURCE_EXHAUSTED."""
    response_cache_seconds: Annotated[float, Field(ge=0, le=60)] = 0.0
    """How long an answer to a request without user_id is given to identical ones; 0 keeps none. An
    answer goes at once when an item of it is deleted or changes."""
    response_cache_entries: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Most answers that are kept."""
    rules: str = ""
    """Path of a rules TOML whose block list holds even without reranking; empty means the
    release's own. Give the same path as in [rerank]."""
    clock: Literal["wall", "data"] = "wall"
    """What `now` is for a request without request_time_micros: the wall clock, or the moment at
    which the release's data ends (for demonstrations on old data)."""
    shares: Shares = field(default_factory=Shares)
    """How the budget is divided."""
    stages: StageAddresses = field(default_factory=StageAddresses)
    """Where the stages listen, without a cluster."""
    stage_in_flight: Annotated[int, Field(ge=1, le=64)] = 2
    """Most stage RPCs under way per replica; entries that arrive meanwhile leave together. How many
    there are up to that is found by measuring at which number entries are answered soonest: 1 makes
    the largest batches, and a stage that has cores of its own or is a network away need not wait
    for its next batch with 2 or more."""
    stage_batch: Annotated[int, Field(ge=1, le=256)] = 32
    """Most entries in one stage RPC."""
    stage_batch_weight: Annotated[int, Field(ge=1, le=1 << 24)] = 16_384
    """Most candidates in one RPC to ranking. A request with more goes alone."""
