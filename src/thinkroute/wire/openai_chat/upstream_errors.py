"""What an upstream says when it fails, in whichever of the shapes in use, as our own errors.

Owns: finding the error object, its status, and keeping our key out of what is passed on. Does not own transport
failures, which are the engine's to name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import orjson

from thinkroute.catalog import Model
from thinkroute.errors import EngineError, EngineInterrupted, EngineProtocolError, EngineRejected

_STATUS_OF_TYPE: Mapping[str, int] = {
    "invalid_request_error": 400,
    "BadRequestError": 400,
    "context_length_exceeded": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "NotFoundError": 404,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "server_error": 500,
    "internal_error": 500,
    "InternalServerError": 500,
    "overloaded_error": 503,
}
_MESSAGE_CHARS = 2000


def rejection(model: Model, status: int, body: bytes, retry_after: str | None = None) -> EngineRejected:
    """The error for an answer with an error status; its body may be JSON of any shape, HTML or nothing."""
    try:
        found = error_object(orjson.loads(_redacted(body, model)))
    except orjson.JSONDecodeError:
        found = None
    return _rejected(model, status, found, retry_after)


def reported_error(model: Model, payload: Mapping[str, Any], *, streaming: bool) -> EngineError | None:
    """The error that a payload of a successful status carries, or None when it carries none."""
    found = error_object(payload)
    if found is None:
        return None
    try:
        found = error_object(orjson.loads(_redacted(orjson.dumps(payload), model)))
    except (orjson.JSONDecodeError, TypeError):
        return EngineProtocolError(f"model {model.name!r}: the upstream's error object cannot be read")
    status = _status(found or {})
    if status is None and streaming:
        return EngineInterrupted(
            f"model {model.name!r}: the upstream ended the stream with an error{_said(found)}"
        )
    return _rejected(model, status or 500, found, None)


def error_object(payload: object) -> Mapping[str, Any] | None:
    """The error object of a payload, its message under `message`; None when the payload is not an error."""
    if not isinstance(payload, dict):
        return None
    fields = cast("dict[str, Any]", payload)
    error: object = fields.get("error")
    if isinstance(error, dict) and error:
        return cast("dict[str, Any]", error)
    if isinstance(error, str) and error:
        return {"message": error}
    if fields.get("object") == "error":
        return {key: value for key, value in fields.items() if key != "object"}
    return None if "choices" in fields else _bare_message(fields)


def _bare_message(fields: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Error shapes without an error object, among them FastAPI's, as servers send it for unknown fields."""
    detail = fields.get("detail", fields.get("message"))
    if detail is None:
        return None
    return {"message": detail if isinstance(detail, str) else orjson.dumps(detail).decode()}


def _rejected(
    model: Model, status: int, error: Mapping[str, Any] | None, retry_after: str | None
) -> EngineRejected:
    message = f"model {model.name!r}: the upstream answered {status}{_said(error)}"
    return EngineRejected(message, status=status, body=error, retry_after=retry_after)


def _said(error: Mapping[str, Any] | None) -> str:
    message = (error or {}).get("message")
    return f": {message[:_MESSAGE_CHARS]}" if isinstance(message, str) and message else ""


def _status(error: Mapping[str, Any]) -> int | None:
    for field in ("status", "status_code", "code"):
        value = error.get(field)
        if isinstance(value, str) and value.isdecimal() and len(value) == 3:
            value = int(value)
        if isinstance(value, int) and 400 <= value < 600:
            return value
    for field in ("type", "code"):
        value = error.get(field)
        if isinstance(value, str) and value in _STATUS_OF_TYPE:
            return _STATUS_OF_TYPE[value]
    return None


def _redacted(body: bytes, model: Model) -> bytes:
    """Servers quote the key they refuse; the caller must not learn it from us."""
    return body.replace(model.api_key.encode(), b"***") if model.api_key else body
