from corerec.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RankRequest(_message.Message):
    __slots__ = ("release", "entries")
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    release: str
    entries: _containers.RepeatedCompositeFieldContainer[RankEntry]
    def __init__(self, release: _Optional[str] = ..., entries: _Optional[_Iterable[_Union[RankEntry, _Mapping]]] = ...) -> None: ...

class RankEntry(_message.Message):
    __slots__ = ("request_id", "budget_micros", "user", "candidates", "k")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    BUDGET_MICROS_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    budget_micros: int
    user: _common_pb2.UserContext
    candidates: _common_pb2.Candidates
    k: int
    def __init__(self, request_id: _Optional[str] = ..., budget_micros: _Optional[int] = ..., user: _Optional[_Union[_common_pb2.UserContext, _Mapping]] = ..., candidates: _Optional[_Union[_common_pb2.Candidates, _Mapping]] = ..., k: _Optional[int] = ...) -> None: ...

class RankResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[RankResult]
    def __init__(self, results: _Optional[_Iterable[_Union[RankResult, _Mapping]]] = ...) -> None: ...

class RankStreamRequest(_message.Message):
    __slots__ = ("call", "batch")
    CALL_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    call: int
    batch: RankRequest
    def __init__(self, call: _Optional[int] = ..., batch: _Optional[_Union[RankRequest, _Mapping]] = ...) -> None: ...

class RankStreamResponse(_message.Message):
    __slots__ = ("call", "status", "batch")
    CALL_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    call: int
    status: _common_pb2.EntryStatus
    batch: RankResponse
    def __init__(self, call: _Optional[int] = ..., status: _Optional[_Union[_common_pb2.EntryStatus, _Mapping]] = ..., batch: _Optional[_Union[RankResponse, _Mapping]] = ...) -> None: ...

class RankResult(_message.Message):
    __slots__ = ("status", "candidates", "timings")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    status: _common_pb2.EntryStatus
    candidates: _common_pb2.Candidates
    timings: _containers.RepeatedCompositeFieldContainer[_common_pb2.StepTiming]
    def __init__(self, status: _Optional[_Union[_common_pb2.EntryStatus, _Mapping]] = ..., candidates: _Optional[_Union[_common_pb2.Candidates, _Mapping]] = ..., timings: _Optional[_Iterable[_Union[_common_pb2.StepTiming, _Mapping]]] = ...) -> None: ...
