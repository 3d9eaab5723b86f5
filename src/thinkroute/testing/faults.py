"""The ways an upstream fails, as data. `FakeUpstream` plays one a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BreakPlace = Literal[
    "after_role", "mid_event", "mid_utf8", "before_finish", "before_usage", "before_terminator"
]


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection is reset once the request is read, before any byte of a response."""


@dataclass(frozen=True, slots=True)
class HangBeforeHeaders:
    """The request is read and nothing ever comes back."""


@dataclass(frozen=True, slots=True)
class HangAfterChunks:
    """Headers and this many events are sent, then nothing more; 0 hangs right after the headers."""

    chunks: int = 0


@dataclass(frozen=True, slots=True)
class Break:
    """The body stops short."""

    at: BreakPlace | int
    """A place in the stream, or a number of bytes of the body."""
    clean: bool = False
    """Whether the response ends as if it were whole, which is the harder case to notice."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """A successful status with a body of another kind."""

    body: bytes = b"<!doctype html><title>Sign in</title>"
    content_type: str = "text/html"


@dataclass(frozen=True, slots=True)
class Status:
    """An error status."""

    status: int
    message: str = "no"
    error_type: str = "invalid_request_error"
    retry_after: str | None = None
    body: bytes | None = None
    """Sent instead of OpenAI's error object."""


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """An error object in the middle of a stream, which then ends."""

    chunks: int = 2
    code: int | None = None


Fault = Reset | HangBeforeHeaders | HangAfterChunks | Break | Garbage | Status | ErrorEvent
