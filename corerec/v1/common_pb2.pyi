from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class CandidateSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CANDIDATE_SOURCE_UNSPECIFIED: _ClassVar[CandidateSource]
    CANDIDATE_SOURCE_TWO_TOWER: _ClassVar[CandidateSource]
    CANDIDATE_SOURCE_POPULAR: _ClassVar[CandidateSource]
    CANDIDATE_SOURCE_PINNED: _ClassVar[CandidateSource]
    CANDIDATE_SOURCE_BERT4REC: _ClassVar[CandidateSource]
    CANDIDATE_SOURCE_MATRIX_FACTORIZATION: _ClassVar[CandidateSource]
    CANDIDATE_SOURCE_TRENDING: _ClassVar[CandidateSource]
    CANDIDATE_SOURCE_FRESH: _ClassVar[CandidateSource]
    CANDIDATE_SOURCE_ITEM_TO_ITEM: _ClassVar[CandidateSource]
CANDIDATE_SOURCE_UNSPECIFIED: CandidateSource
CANDIDATE_SOURCE_TWO_TOWER: CandidateSource
CANDIDATE_SOURCE_POPULAR: CandidateSource
CANDIDATE_SOURCE_PINNED: CandidateSource
CANDIDATE_SOURCE_BERT4REC: CandidateSource
CANDIDATE_SOURCE_MATRIX_FACTORIZATION: CandidateSource
CANDIDATE_SOURCE_TRENDING: CandidateSource
CANDIDATE_SOURCE_FRESH: CandidateSource
CANDIDATE_SOURCE_ITEM_TO_ITEM: CandidateSource

class UserContext(_message.Message):
    __slots__ = ("user_id", "attributes", "history_count", "history_item_numbers", "history_event_times_micros", "request_time_micros")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    HISTORY_COUNT_FIELD_NUMBER: _ClassVar[int]
    HISTORY_ITEM_NUMBERS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_EVENT_TIMES_MICROS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_TIME_MICROS_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    attributes: _containers.ScalarMap[str, str]
    history_count: int
    history_item_numbers: bytes
    history_event_times_micros: bytes
    request_time_micros: int
    def __init__(self, user_id: _Optional[str] = ..., attributes: _Optional[_Mapping[str, str]] = ..., history_count: _Optional[int] = ..., history_item_numbers: _Optional[bytes] = ..., history_event_times_micros: _Optional[bytes] = ..., request_time_micros: _Optional[int] = ...) -> None: ...

class Candidates(_message.Message):
    __slots__ = ("item_count", "item_numbers", "scores", "sources")
    ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    ITEM_NUMBERS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    item_count: int
    item_numbers: bytes
    scores: bytes
    sources: bytes
    def __init__(self, item_count: _Optional[int] = ..., item_numbers: _Optional[bytes] = ..., scores: _Optional[bytes] = ..., sources: _Optional[bytes] = ...) -> None: ...

class Predicate(_message.Message):
    __slots__ = ("attribute", "any_of", "none_of", "at_least", "at_most")
    ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
    ANY_OF_FIELD_NUMBER: _ClassVar[int]
    NONE_OF_FIELD_NUMBER: _ClassVar[int]
    AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    AT_MOST_FIELD_NUMBER: _ClassVar[int]
    attribute: str
    any_of: _containers.RepeatedScalarFieldContainer[str]
    none_of: _containers.RepeatedScalarFieldContainer[str]
    at_least: float
    at_most: float
    def __init__(self, attribute: _Optional[str] = ..., any_of: _Optional[_Iterable[str]] = ..., none_of: _Optional[_Iterable[str]] = ..., at_least: _Optional[float] = ..., at_most: _Optional[float] = ...) -> None: ...

class EntryStatus(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class StepTiming(_message.Message):
    __slots__ = ("name", "latency_micros")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MICROS_FIELD_NUMBER: _ClassVar[int]
    name: str
    latency_micros: int
    def __init__(self, name: _Optional[str] = ..., latency_micros: _Optional[int] = ...) -> None: ...
