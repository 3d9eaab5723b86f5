"""Every error thinkroute raises on purpose, and the one table that maps them to HTTP.

ThinkrouteError
├── ConfigError                  a configuration file or value is wrong
├── DataError                    a data file or outcome table is wrong
├── RequestError                 the caller's request is wrong
│   ├── InvalidRequest           400 malformed or contradictory
│   ├── RequestTooLarge          413 body over the limit
│   ├── Unauthorized             401 missing or wrong key
│   ├── ForeignOrigin            403 a web page of another site asks a gateway that has no key
│   ├── UnknownModel             404 no such model, virtual model or effort
│   ├── UnknownDecision          404 no such decision id
│   ├── MethodNotAllowed         405
│   ├── NotFound                 404 no such path
│   ├── UnsupportedRequest       422 well-formed, but no arm or engine can honour it
│   └── OutOfScope               422 the embedded fleet does not speak the question's language
├── Refused                      429 a budget or limit says no
│   └── BudgetExhausted          429
├── Overloaded                   503 the gateway sheds load
└── EngineError                  an engine failed
    ├── EngineUnavailable        502 connection refused, reset, name not found
    ├── EngineTimeout            504 connect, first byte or total time exceeded
    ├── EngineProtocolError      502 the engine answered with something that is not its protocol
    ├── EngineInterrupted        502 the stream ended before it was complete
    └── EngineRejected           the upstream's own error; its status where the caller can act on it, else 502
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ThinkrouteError(Exception):
    """Base of all errors raised on purpose. The message names the value, the place and the fix."""

    code = "internal_error"
    """Stable machine-readable code, the same in every dialect."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class ConfigError(ThinkrouteError):
    """A configuration file or value is wrong."""

    code = "config_error"


class DataError(ThinkrouteError):
    """A data file or outcome table is wrong."""

    code = "data_error"


class RequestError(ThinkrouteError):
    """The caller's request is wrong; sending it again unchanged cannot work."""

    code = "invalid_request"


class InvalidRequest(RequestError):
    """Malformed or contradictory."""


class RequestTooLarge(RequestError):
    """The body is over the size limit."""

    code = "request_too_large"


class Unauthorized(RequestError):
    """The key is missing or wrong."""

    code = "invalid_api_key"


class ForeignOrigin(RequestError):
    """A web page of another site asks a gateway that has no key."""

    code = "foreign_origin"


class UnknownModel(RequestError):
    """No model, virtual model or effort of that name."""

    code = "model_not_found"


class UnknownDecision(RequestError):
    """No decision of that id is visible to this key."""

    code = "decision_not_found"


class NotFound(RequestError):
    """No such path."""

    code = "not_found"


class MethodNotAllowed(RequestError):
    """The path exists, the method does not."""

    code = "method_not_allowed"


class UnsupportedRequest(RequestError):
    """Well-formed, but no arm or engine can honour it."""

    code = "unsupported_request"


class OutOfScope(RequestError):
    """The embedded fleet does not speak the question's language."""

    code = "fleet_out_of_scope"


class Refused(ThinkrouteError):
    """A limit says no for now."""

    code = "refused"


class BudgetExhausted(Refused):
    """No allowed arm fits the remaining spend budget."""

    code = "budget_exhausted"


class Overloaded(ThinkrouteError):
    """The gateway sheds load."""

    code = "gateway_overloaded"


class EngineError(ThinkrouteError):
    """An engine failed; the request itself may be fine."""

    code = "upstream_error"


class EngineUnavailable(EngineError):
    """Connection refused, reset, or name not found."""

    code = "upstream_unavailable"

    def __init__(self, message: str, *, reached: bool = False) -> None:
        super().__init__(message)
        self.reached = reached
        """Whether the request may have arrived before the connection broke."""


class EngineTimeout(EngineError):
    """The connect, first-byte or total timeout passed."""

    code = "upstream_timeout"


class EngineProtocolError(EngineError):
    """The engine answered with something that is not its protocol."""

    code = "upstream_protocol_error"


class EngineInterrupted(EngineError):
    """The engine's stream ended before it was complete."""

    code = "upstream_interrupted"


class EngineRejected(EngineError):
    """The upstream answered with an error status of its own."""

    code = "upstream_rejected"

    def __init__(
        self,
        message: str,
        *,
        status: int,
        body: Mapping[str, Any] | None = None,
        retry_after: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = body
        """The upstream's `error` object when it sent one."""
        self.retry_after = retry_after


HTTP_STATUS: Mapping[type[ThinkrouteError], tuple[int, str]] = {
    RequestTooLarge: (413, "invalid_request_error"),
    Unauthorized: (401, "authentication_error"),
    ForeignOrigin: (403, "authentication_error"),
    UnknownModel: (404, "invalid_request_error"),
    UnknownDecision: (404, "invalid_request_error"),
    NotFound: (404, "invalid_request_error"),
    MethodNotAllowed: (405, "invalid_request_error"),
    UnsupportedRequest: (422, "invalid_request_error"),
    OutOfScope: (422, "invalid_request_error"),
    RequestError: (400, "invalid_request_error"),
    Refused: (429, "insufficient_quota"),
    Overloaded: (503, "server_error"),
    EngineTimeout: (504, "upstream_error"),
    EngineError: (502, "upstream_error"),
    DataError: (503, "server_error"),
    ThinkrouteError: (500, "server_error"),
}
"""Error class → (HTTP status, error type in the body). The nearest base class decides."""


def http_status(error: ThinkrouteError) -> tuple[int, str]:
    """Status and error type of an error.

    An upstream's own 4xx passes through with its status: the caller can act on it. An upstream's 401 and 403 are
    about *our* key, which the caller cannot mend, so they become 502, as does every 5xx but 503.
    """
    if isinstance(error, EngineRejected):
        passes = (400 <= error.status < 500 and error.status not in (401, 403, 407)) or error.status == 503
        return (error.status if passes else 502), "upstream_error"
    for base in type(error).__mro__:
        if base in HTTP_STATUS:
            return HTTP_STATUS[base]
    return HTTP_STATUS[ThinkrouteError]
