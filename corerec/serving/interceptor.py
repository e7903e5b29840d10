"""The one server interceptor: request ids, metrics, and domain errors turned into statuses."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from corerec.errors import CoreRecError
from corerec.serving.metrics import Metrics
from corerec.serving.status import code_of, text_of

log = logging.getLogger(__name__)

REQUEST_ID: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
"""Id of the call that is being answered; every log line carries it."""

_SAFE_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")

Handler = Any  # grpc.RpcMethodHandler has no types for what is inside


class ServiceInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Wraps every unary call. Streams pass untouched: health Watch, reflection, and the stages',
    which measure their batches themselves (`StreamServer`)."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Return the method's wrapped handler, made once per method."""
        method = handler_call_details.method
        if (known := self._wrapped.get(method)) is not None:
            return known
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        wrapped = grpc.unary_unary_rpc_method_handler(
            self._wrap(method, handler.unary_unary),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        self._wrapped[method] = wrapped
        return wrapped

    def _wrap(
        self, path: str, inner: Callable[[Any, Any], Awaitable[Any]]
    ) -> Callable[[Any, Any], Awaitable[Any]]:
        _, service, method = path.split("/")
        ok_seconds = self._metrics.rpc_seconds.labels(service, method, "OK")

        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            request_id = _request_id(context)
            token = REQUEST_ID.set(request_id)
            started = time.monotonic()
            code = "OK"
            try:
                context.set_trailing_metadata((("x-request-id", request_id),))
                return await inner(request, context)
            except grpc.aio.AbortError:  # a library servicer has set its own status
                code = context.code().name
                raise
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            except Exception as error:
                code = code_of(error).name
                if not isinstance(error, CoreRecError) or code == "INTERNAL":
                    log.exception("%s failed", path)
                await context.abort(code_of(error), text_of(error))
            finally:
                measured = ok_seconds
                if code != "OK":
                    measured = self._metrics.rpc_seconds.labels(service, method, code)
                measured.observe(time.monotonic() - started)
                REQUEST_ID.reset(token)

        return call


def _request_id(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "x-request-id" and isinstance(value, str) and _SAFE_ID.fullmatch(value):
            return value
    return f"{random.getrandbits(64):016x}"  # unique, no secret: no call of the system for each
