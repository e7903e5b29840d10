from corerec.v1 import common_pb2 as _common_pb2
from corerec.v1 import rerank_pb2 as _rerank_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DegradationReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEGRADATION_REASON_UNSPECIFIED: _ClassVar[DegradationReason]
    DEGRADATION_REASON_TIMEOUT: _ClassVar[DegradationReason]
    DEGRADATION_REASON_UNAVAILABLE: _ClassVar[DegradationReason]
    DEGRADATION_REASON_OVERLOADED: _ClassVar[DegradationReason]
    DEGRADATION_REASON_ERROR: _ClassVar[DegradationReason]
    DEGRADATION_REASON_RELEASE_MISMATCH: _ClassVar[DegradationReason]
    DEGRADATION_REASON_PARTIAL: _ClassVar[DegradationReason]
DEGRADATION_REASON_UNSPECIFIED: DegradationReason
DEGRADATION_REASON_TIMEOUT: DegradationReason
DEGRADATION_REASON_UNAVAILABLE: DegradationReason
DEGRADATION_REASON_OVERLOADED: DegradationReason
DEGRADATION_REASON_ERROR: DegradationReason
DEGRADATION_REASON_RELEASE_MISMATCH: DegradationReason
DEGRADATION_REASON_PARTIAL: DegradationReason

class RecommendRequest(_message.Message):
    __slots__ = ("user_id", "page_size", "attributes", "recent_item_ids", "include_seen", "request_time_micros", "where")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    RECENT_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_SEEN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_TIME_MICROS_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    page_size: int
    attributes: _containers.ScalarMap[str, str]
    recent_item_ids: _containers.RepeatedScalarFieldContainer[str]
    include_seen: bool
    request_time_micros: int
    where: _containers.RepeatedCompositeFieldContainer[_common_pb2.Predicate]
    def __init__(self, user_id: _Optional[str] = ..., page_size: _Optional[int] = ..., attributes: _Optional[_Mapping[str, str]] = ..., recent_item_ids: _Optional[_Iterable[str]] = ..., include_seen: _Optional[bool] = ..., request_time_micros: _Optional[int] = ..., where: _Optional[_Iterable[_Union[_common_pb2.Predicate, _Mapping]]] = ...) -> None: ...

class RecommendResponse(_message.Message):
    __slots__ = ("items", "request_id", "release", "stages", "coverage", "degraded", "latency_micros")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MICROS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[_rerank_pb2.RankedItem]
    request_id: str
    release: str
    stages: _containers.RepeatedCompositeFieldContainer[StageReport]
    coverage: float
    degraded: _containers.RepeatedCompositeFieldContainer[Degradation]
    latency_micros: int
    def __init__(self, items: _Optional[_Iterable[_Union[_rerank_pb2.RankedItem, _Mapping]]] = ..., request_id: _Optional[str] = ..., release: _Optional[str] = ..., stages: _Optional[_Iterable[_Union[StageReport, _Mapping]]] = ..., coverage: _Optional[float] = ..., degraded: _Optional[_Iterable[_Union[Degradation, _Mapping]]] = ..., latency_micros: _Optional[int] = ...) -> None: ...

class StageReport(_message.Message):
    __slots__ = ("stage", "input_count", "output_count", "latency_micros", "steps")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    INPUT_COUNT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_COUNT_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MICROS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    stage: str
    input_count: int
    output_count: int
    latency_micros: int
    steps: _containers.RepeatedCompositeFieldContainer[_common_pb2.StepTiming]
    def __init__(self, stage: _Optional[str] = ..., input_count: _Optional[int] = ..., output_count: _Optional[int] = ..., latency_micros: _Optional[int] = ..., steps: _Optional[_Iterable[_Union[_common_pb2.StepTiming, _Mapping]]] = ...) -> None: ...

class Degradation(_message.Message):
    __slots__ = ("stage", "reason", "note")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    stage: str
    reason: DegradationReason
    note: str
    def __init__(self, stage: _Optional[str] = ..., reason: _Optional[_Union[DegradationReason, str]] = ..., note: _Optional[str] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("recommend", "item_ids")
    RECOMMEND_FIELD_NUMBER: _ClassVar[int]
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    recommend: RecommendRequest
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, recommend: _Optional[_Union[RecommendRequest, _Mapping]] = ..., item_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("recommend", "traces", "history")
    RECOMMEND_FIELD_NUMBER: _ClassVar[int]
    TRACES_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    recommend: RecommendResponse
    traces: _containers.RepeatedCompositeFieldContainer[ItemTrace]
    history: _containers.RepeatedCompositeFieldContainer[HistoryItem]
    def __init__(self, recommend: _Optional[_Union[RecommendResponse, _Mapping]] = ..., traces: _Optional[_Iterable[_Union[ItemTrace, _Mapping]]] = ..., history: _Optional[_Iterable[_Union[HistoryItem, _Mapping]]] = ...) -> None: ...

class ItemTrace(_message.Message):
    __slots__ = ("item_number", "item_id", "title", "source", "retrieve_position", "retrieve_score", "rank_position", "rank_score", "final_position", "final_score", "moves", "removed_by", "note", "found_by")
    ITEM_NUMBER_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    RETRIEVE_POSITION_FIELD_NUMBER: _ClassVar[int]
    RETRIEVE_SCORE_FIELD_NUMBER: _ClassVar[int]
    RANK_POSITION_FIELD_NUMBER: _ClassVar[int]
    RANK_SCORE_FIELD_NUMBER: _ClassVar[int]
    FINAL_POSITION_FIELD_NUMBER: _ClassVar[int]
    FINAL_SCORE_FIELD_NUMBER: _ClassVar[int]
    MOVES_FIELD_NUMBER: _ClassVar[int]
    REMOVED_BY_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    FOUND_BY_FIELD_NUMBER: _ClassVar[int]
    item_number: int
    item_id: str
    title: str
    source: _common_pb2.CandidateSource
    retrieve_position: int
    retrieve_score: float
    rank_position: int
    rank_score: float
    final_position: int
    final_score: float
    moves: _containers.RepeatedCompositeFieldContainer[_rerank_pb2.ItemMove]
    removed_by: str
    note: str
    found_by: _containers.RepeatedCompositeFieldContainer[SourceScore]
    def __init__(self, item_number: _Optional[int] = ..., item_id: _Optional[str] = ..., title: _Optional[str] = ..., source: _Optional[_Union[_common_pb2.CandidateSource, str]] = ..., retrieve_position: _Optional[int] = ..., retrieve_score: _Optional[float] = ..., rank_position: _Optional[int] = ..., rank_score: _Optional[float] = ..., final_position: _Optional[int] = ..., final_score: _Optional[float] = ..., moves: _Optional[_Iterable[_Union[_rerank_pb2.ItemMove, _Mapping]]] = ..., removed_by: _Optional[str] = ..., note: _Optional[str] = ..., found_by: _Optional[_Iterable[_Union[SourceScore, _Mapping]]] = ...) -> None: ...

class SourceScore(_message.Message):
    __slots__ = ("source", "score")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    source: _common_pb2.CandidateSource
    score: float
    def __init__(self, source: _Optional[_Union[_common_pb2.CandidateSource, str]] = ..., score: _Optional[float] = ...) -> None: ...

class HistoryItem(_message.Message):
    __slots__ = ("item_id", "title", "event_time_micros")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_MICROS_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    title: str
    event_time_micros: int
    def __init__(self, item_id: _Optional[str] = ..., title: _Optional[str] = ..., event_time_micros: _Optional[int] = ...) -> None: ...

class RecordEventsRequest(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("user_id", "item_id", "event_time_micros", "event_type", "event_id")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_MICROS_FIELD_NUMBER: _ClassVar[int]
    EVENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    item_id: str
    event_time_micros: int
    event_type: str
    event_id: str
    def __init__(self, user_id: _Optional[str] = ..., item_id: _Optional[str] = ..., event_time_micros: _Optional[int] = ..., event_type: _Optional[str] = ..., event_id: _Optional[str] = ...) -> None: ...

class RecordEventsResponse(_message.Message):
    __slots__ = ("stored_count",)
    STORED_COUNT_FIELD_NUMBER: _ClassVar[int]
    stored_count: int
    def __init__(self, stored_count: _Optional[int] = ...) -> None: ...
