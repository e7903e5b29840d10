"""The one mapping between CoreRec errors and gRPC statuses, for calls and for batch entries."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType

import grpc

from corerec.errors import (
    CoreRecError,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from corerec.v1 import common_pb2

INTERNAL_TEXT = "internal error"
"""All that a caller learns of an error that is not CoreRec's own; the log has the rest."""


class Internal(CoreRecError):
    """A peer answered something that no healthy peer answers."""


_CODES: Mapping[type[CoreRecError], grpc.StatusCode] = MappingProxyType(
    {
        InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
        NotFound: grpc.StatusCode.NOT_FOUND,
        FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
        ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
        Unavailable: grpc.StatusCode.UNAVAILABLE,
        DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)
_ERRORS: Mapping[int, type[CoreRecError]] = MappingProxyType(
    {code.value[0]: error for error, code in _CODES.items()}
)


def code_of(error: BaseException) -> grpc.StatusCode:
    """Return the status of an error."""
    if isinstance(error, asyncio.CancelledError):
        return grpc.StatusCode.CANCELLED
    for cls in type(error).__mro__:
        if cls in _CODES:
            return _CODES[cls]
    return grpc.StatusCode.INTERNAL


def text_of(error: BaseException) -> str:
    """Return what a caller may read of an error."""
    known = isinstance(error, CoreRecError) and not isinstance(error, Internal)
    return str(error) if known else INTERNAL_TEXT


def entry_status(error: BaseException) -> common_pb2.EntryStatus:
    """Return the status of a batch entry that ended in `error`."""
    return common_pb2.EntryStatus(code=code_of(error).value[0], message=text_of(error))


def error_of(code: int, message: str) -> CoreRecError:
    """Return the error that a status stands for; anything that is not ours is Internal."""
    return _ERRORS.get(code, Internal)(message or f"status {code}")


def error_of_call(error: grpc.RpcError) -> CoreRecError:
    """Return the error of a failed call."""
    if isinstance(error, grpc.aio.AioRpcError | grpc.Call):
        if error.code() is grpc.StatusCode.CANCELLED:  # not by the caller, who would know
            return Unavailable("the server ended the call; it may be shutting down")
        return error_of(error.code().value[0], error.details() or "")
    return Internal(str(error))
