from corerec.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RetrieveRequest(_message.Message):
    __slots__ = ("release", "entries")
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    release: str
    entries: _containers.RepeatedCompositeFieldContainer[RetrieveEntry]
    def __init__(self, release: _Optional[str] = ..., entries: _Optional[_Iterable[_Union[RetrieveEntry, _Mapping]]] = ...) -> None: ...

class RetrieveEntry(_message.Message):
    __slots__ = ("request_id", "budget_micros", "user", "k", "exclude_seen", "where", "explain")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    BUDGET_MICROS_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_SEEN_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    budget_micros: int
    user: _common_pb2.UserContext
    k: int
    exclude_seen: bool
    where: _containers.RepeatedCompositeFieldContainer[_common_pb2.Predicate]
    explain: bool
    def __init__(self, request_id: _Optional[str] = ..., budget_micros: _Optional[int] = ..., user: _Optional[_Union[_common_pb2.UserContext, _Mapping]] = ..., k: _Optional[int] = ..., exclude_seen: _Optional[bool] = ..., where: _Optional[_Iterable[_Union[_common_pb2.Predicate, _Mapping]]] = ..., explain: _Optional[bool] = ...) -> None: ...

class RetrieveResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[RetrieveResult]
    def __init__(self, results: _Optional[_Iterable[_Union[RetrieveResult, _Mapping]]] = ...) -> None: ...

class RetrieveStreamRequest(_message.Message):
    __slots__ = ("call", "batch")
    CALL_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    call: int
    batch: RetrieveRequest
    def __init__(self, call: _Optional[int] = ..., batch: _Optional[_Union[RetrieveRequest, _Mapping]] = ...) -> None: ...

class RetrieveStreamResponse(_message.Message):
    __slots__ = ("call", "status", "batch")
    CALL_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    call: int
    status: _common_pb2.EntryStatus
    batch: RetrieveResponse
    def __init__(self, call: _Optional[int] = ..., status: _Optional[_Union[_common_pb2.EntryStatus, _Mapping]] = ..., batch: _Optional[_Union[RetrieveResponse, _Mapping]] = ...) -> None: ...

class RetrieveResult(_message.Message):
    __slots__ = ("status", "candidates", "coverage", "timings", "found_by", "catalogue_position")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    FOUND_BY_FIELD_NUMBER: _ClassVar[int]
    CATALOGUE_POSITION_FIELD_NUMBER: _ClassVar[int]
    status: _common_pb2.EntryStatus
    candidates: _common_pb2.Candidates
    coverage: float
    timings: _containers.RepeatedCompositeFieldContainer[_common_pb2.StepTiming]
    found_by: _containers.RepeatedCompositeFieldContainer[FoundBy]
    catalogue_position: int
    def __init__(self, status: _Optional[_Union[_common_pb2.EntryStatus, _Mapping]] = ..., candidates: _Optional[_Union[_common_pb2.Candidates, _Mapping]] = ..., coverage: _Optional[float] = ..., timings: _Optional[_Iterable[_Union[_common_pb2.StepTiming, _Mapping]]] = ..., found_by: _Optional[_Iterable[_Union[FoundBy, _Mapping]]] = ..., catalogue_position: _Optional[int] = ...) -> None: ...

class FoundBy(_message.Message):
    __slots__ = ("source", "scores")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    source: _common_pb2.CandidateSource
    scores: bytes
    def __init__(self, source: _Optional[_Union[_common_pb2.CandidateSource, str]] = ..., scores: _Optional[bytes] = ...) -> None: ...

class SearchRequest(_message.Message):
    __slots__ = ("release", "entries")
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    release: str
    entries: _containers.RepeatedCompositeFieldContainer[SearchEntry]
    def __init__(self, release: _Optional[str] = ..., entries: _Optional[_Iterable[_Union[SearchEntry, _Mapping]]] = ...) -> None: ...

class SearchEntry(_message.Message):
    __slots__ = ("request_id", "budget_micros", "queries", "k", "excluded_item_numbers", "history_item_numbers", "where", "request_time_micros")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    BUDGET_MICROS_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    EXCLUDED_ITEM_NUMBERS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_ITEM_NUMBERS_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_TIME_MICROS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    budget_micros: int
    queries: _containers.RepeatedCompositeFieldContainer[Query]
    k: int
    excluded_item_numbers: bytes
    history_item_numbers: bytes
    where: _containers.RepeatedCompositeFieldContainer[_common_pb2.Predicate]
    request_time_micros: int
    def __init__(self, request_id: _Optional[str] = ..., budget_micros: _Optional[int] = ..., queries: _Optional[_Iterable[_Union[Query, _Mapping]]] = ..., k: _Optional[int] = ..., excluded_item_numbers: _Optional[bytes] = ..., history_item_numbers: _Optional[bytes] = ..., where: _Optional[_Iterable[_Union[_common_pb2.Predicate, _Mapping]]] = ..., request_time_micros: _Optional[int] = ...) -> None: ...

class Query(_message.Message):
    __slots__ = ("kind", "vector")
    KIND_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    kind: str
    vector: bytes
    def __init__(self, kind: _Optional[str] = ..., vector: _Optional[bytes] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[SearchResult]
    def __init__(self, results: _Optional[_Iterable[_Union[SearchResult, _Mapping]]] = ...) -> None: ...

class SearchStreamRequest(_message.Message):
    __slots__ = ("call", "batch")
    CALL_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    call: int
    batch: SearchRequest
    def __init__(self, call: _Optional[int] = ..., batch: _Optional[_Union[SearchRequest, _Mapping]] = ...) -> None: ...

class SearchStreamResponse(_message.Message):
    __slots__ = ("call", "status", "batch")
    CALL_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    call: int
    status: _common_pb2.EntryStatus
    batch: SearchResponse
    def __init__(self, call: _Optional[int] = ..., status: _Optional[_Union[_common_pb2.EntryStatus, _Mapping]] = ..., batch: _Optional[_Union[SearchResponse, _Mapping]] = ...) -> None: ...

class SearchResult(_message.Message):
    __slots__ = ("status", "lists", "timings", "catalogue_position")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    LISTS_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    CATALOGUE_POSITION_FIELD_NUMBER: _ClassVar[int]
    status: _common_pb2.EntryStatus
    lists: _containers.RepeatedCompositeFieldContainer[SourceList]
    timings: _containers.RepeatedCompositeFieldContainer[_common_pb2.StepTiming]
    catalogue_position: int
    def __init__(self, status: _Optional[_Union[_common_pb2.EntryStatus, _Mapping]] = ..., lists: _Optional[_Iterable[_Union[SourceList, _Mapping]]] = ..., timings: _Optional[_Iterable[_Union[_common_pb2.StepTiming, _Mapping]]] = ..., catalogue_position: _Optional[int] = ...) -> None: ...

class SourceList(_message.Message):
    __slots__ = ("kind", "item_count", "item_numbers", "scores", "totals")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    ITEM_NUMBERS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    item_count: int
    item_numbers: bytes
    scores: bytes
    totals: bytes
    def __init__(self, kind: _Optional[str] = ..., item_count: _Optional[int] = ..., item_numbers: _Optional[bytes] = ..., scores: _Optional[bytes] = ..., totals: _Optional[bytes] = ...) -> None: ...
