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
    __slots__ = ("request_id", "budget_micros", "user", "k", "exclude_seen")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    BUDGET_MICROS_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_SEEN_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    budget_micros: int
    user: _common_pb2.UserContext
    k: int
    exclude_seen: bool
    def __init__(self, request_id: _Optional[str] = ..., budget_micros: _Optional[int] = ..., user: _Optional[_Union[_common_pb2.UserContext, _Mapping]] = ..., k: _Optional[int] = ..., exclude_seen: _Optional[bool] = ...) -> None: ...

class RetrieveResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[RetrieveResult]
    def __init__(self, results: _Optional[_Iterable[_Union[RetrieveResult, _Mapping]]] = ...) -> None: ...

class RetrieveResult(_message.Message):
    __slots__ = ("status", "candidates", "coverage", "timings")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    status: _common_pb2.EntryStatus
    candidates: _common_pb2.Candidates
    coverage: float
    timings: _containers.RepeatedCompositeFieldContainer[_common_pb2.StepTiming]
    def __init__(self, status: _Optional[_Union[_common_pb2.EntryStatus, _Mapping]] = ..., candidates: _Optional[_Union[_common_pb2.Candidates, _Mapping]] = ..., coverage: _Optional[float] = ..., timings: _Optional[_Iterable[_Union[_common_pb2.StepTiming, _Mapping]]] = ...) -> None: ...
