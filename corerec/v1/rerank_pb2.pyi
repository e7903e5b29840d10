from corerec.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RerankRequest(_message.Message):
    __slots__ = ("release", "entries")
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    release: str
    entries: _containers.RepeatedCompositeFieldContainer[RerankEntry]
    def __init__(self, release: _Optional[str] = ..., entries: _Optional[_Iterable[_Union[RerankEntry, _Mapping]]] = ...) -> None: ...

class RerankEntry(_message.Message):
    __slots__ = ("request_id", "budget_micros", "candidates", "k", "request_time_micros", "explain")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    BUDGET_MICROS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    REQUEST_TIME_MICROS_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    budget_micros: int
    candidates: _common_pb2.Candidates
    k: int
    request_time_micros: int
    explain: bool
    def __init__(self, request_id: _Optional[str] = ..., budget_micros: _Optional[int] = ..., candidates: _Optional[_Union[_common_pb2.Candidates, _Mapping]] = ..., k: _Optional[int] = ..., request_time_micros: _Optional[int] = ..., explain: _Optional[bool] = ...) -> None: ...

class RerankResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[RerankResult]
    def __init__(self, results: _Optional[_Iterable[_Union[RerankResult, _Mapping]]] = ...) -> None: ...

class RerankStreamRequest(_message.Message):
    __slots__ = ("call", "batch")
    CALL_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    call: int
    batch: RerankRequest
    def __init__(self, call: _Optional[int] = ..., batch: _Optional[_Union[RerankRequest, _Mapping]] = ...) -> None: ...

class RerankStreamResponse(_message.Message):
    __slots__ = ("call", "status", "batch")
    CALL_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    call: int
    status: _common_pb2.EntryStatus
    batch: RerankResponse
    def __init__(self, call: _Optional[int] = ..., status: _Optional[_Union[_common_pb2.EntryStatus, _Mapping]] = ..., batch: _Optional[_Union[RerankResponse, _Mapping]] = ...) -> None: ...

class RerankResult(_message.Message):
    __slots__ = ("status", "items", "removed", "timings")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    status: _common_pb2.EntryStatus
    items: _containers.RepeatedCompositeFieldContainer[RankedItem]
    removed: _containers.RepeatedCompositeFieldContainer[RemovedItem]
    timings: _containers.RepeatedCompositeFieldContainer[_common_pb2.StepTiming]
    def __init__(self, status: _Optional[_Union[_common_pb2.EntryStatus, _Mapping]] = ..., items: _Optional[_Iterable[_Union[RankedItem, _Mapping]]] = ..., removed: _Optional[_Iterable[_Union[RemovedItem, _Mapping]]] = ..., timings: _Optional[_Iterable[_Union[_common_pb2.StepTiming, _Mapping]]] = ...) -> None: ...

class RankedItem(_message.Message):
    __slots__ = ("item_number", "item_id", "title", "category", "creator", "score", "rank_score", "source", "rank_position", "moves")
    ITEM_NUMBER_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    CREATOR_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    RANK_SCORE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    RANK_POSITION_FIELD_NUMBER: _ClassVar[int]
    MOVES_FIELD_NUMBER: _ClassVar[int]
    item_number: int
    item_id: str
    title: str
    category: str
    creator: str
    score: float
    rank_score: float
    source: _common_pb2.CandidateSource
    rank_position: int
    moves: _containers.RepeatedCompositeFieldContainer[ItemMove]
    def __init__(self, item_number: _Optional[int] = ..., item_id: _Optional[str] = ..., title: _Optional[str] = ..., category: _Optional[str] = ..., creator: _Optional[str] = ..., score: _Optional[float] = ..., rank_score: _Optional[float] = ..., source: _Optional[_Union[_common_pb2.CandidateSource, str]] = ..., rank_position: _Optional[int] = ..., moves: _Optional[_Iterable[_Union[ItemMove, _Mapping]]] = ...) -> None: ...

class ItemMove(_message.Message):
    __slots__ = ("rule", "score_change", "note")
    RULE_FIELD_NUMBER: _ClassVar[int]
    SCORE_CHANGE_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    rule: str
    score_change: float
    note: str
    def __init__(self, rule: _Optional[str] = ..., score_change: _Optional[float] = ..., note: _Optional[str] = ...) -> None: ...

class RemovedItem(_message.Message):
    __slots__ = ("item_number", "rule", "note")
    ITEM_NUMBER_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    item_number: int
    rule: str
    note: str
    def __init__(self, item_number: _Optional[int] = ..., rule: _Optional[str] = ..., note: _Optional[str] = ...) -> None: ...
