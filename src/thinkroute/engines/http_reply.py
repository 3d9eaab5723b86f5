"""What an HTTP upstream sends back: its body read as it arrives, and its failures by our names.

Owns: bounded reading, noticing the end of a stream or the lack of one, and translating transport exceptions. Does not
own connections (`http`) or what the payloads mean (`wire`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator

import aiohttp
from yarl import URL

from thinkroute.catalog import Model
from thinkroute.errors import (
    EngineError,
    EngineInterrupted,
    EngineProtocolError,
    EngineTimeout,
    EngineUnavailable,
)
from thinkroute.programs.protocol import Call, Chunk
from thinkroute.wire.openai_chat.upstream_reply import ReplyReader
from thinkroute.wire.sse import SseParser

LIMIT_BYTES = 16 * 1024 * 1024
"""Longest line of a stream, and longest body."""
_TAIL_GRACE_S = 2.0
"""How long to wait for usage and the terminator once the finish reason is known."""
_CLOSE_GRACE_S = 0.05
"""How long to wait for the end of the body after the terminator, so that the connection can be used again."""


def is_stream(response: aiohttp.ClientResponse, model: Model, call: Call) -> bool:
    """Whether the body is a stream of events: some servers stream, or do not, whatever they were asked."""
    kind = response.content_type
    if kind == "text/html":
        raise garbage(model, "a web page")
    return kind == "text/event-stream" or (call.stream and not kind.endswith("json"))


class ReplyBody:
    """The body of a reply, read as it arrives."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        first: bytes,
        reader: ReplyReader,
        model: Model,
        *,
        streamed: bool,
    ) -> None:
        self._response = response
        self._first = first
        self._reader = reader
        self._model = model
        self._parser = SseParser(LIMIT_BYTES) if streamed else None
        self._data = first
        self._events = 0
        self._failure: EngineError | None = None
        self._ended = False

    async def read(self) -> list[Chunk] | None:
        """The next chunks, possibly none yet; None after the last.

        Raises:
            EngineError: the reply failed; every chunk before the failure was handed out first.
        """
        if self._failure is not None:
            raise self._failure
        if self._ended:
            return None
        if self._parser is None:
            return await self._read_whole()
        data = self._data or await self._next_bytes()
        self._data = b""
        return self._parse(self._parser, data) if data else await self._finish(self._parser)

    async def _read_whole(self) -> list[Chunk]:
        self._ended = True
        with translated(self._model):
            body = await read_bounded(self._response, self._first, LIMIT_BYTES, self._model)
        return self._reader.read_body(body)

    def _parse(self, parser: SseParser, data: bytes) -> list[Chunk]:
        chunks: list[Chunk] = []
        try:
            for event in parser.feed(data):
                self._events += 1
                chunks += self._reader.read_event(event)
        except EngineError as failure:
            self._failure = failure
        return chunks

    async def _next_bytes(self) -> bytes:
        """More of the stream; empty at its end, which a complete reply may reach by any failure."""
        if self._reader.terminated:
            return b""
        if not self._reader.complete:
            with translated(self._model):
                return await self._response.content.readany()
        return await self._patiently(_TAIL_GRACE_S)

    async def _finish(self, parser: SseParser) -> list[Chunk]:
        """The last chunks: of an event without its blank line, and of text held back."""
        if self._reader.terminated:
            await self._patiently(
                _CLOSE_GRACE_S
            )  # with the end of its body the connection goes back to the pool
        self._ended = True
        chunks: list[Chunk] = []
        with contextlib.suppress(EngineProtocolError):  # cut inside an event: what came before decides below
            for event in parser.close():
                chunks += self._reader.read_event(event)
        if not self._reader.complete:
            nonsense = self._first and not self._events and self._response.content_type != "text/event-stream"
            self._failure = (
                garbage(self._model, "not an event stream") if nonsense else broken_off(self._model)
            )
        return chunks + self._reader.close()

    async def _patiently(self, patience_s: float) -> bytes:
        try:
            async with asyncio.timeout(patience_s):
                return await self._response.content.readany()
        except (aiohttp.ClientError, OSError):  # a TimeoutError is an OSError
            return b""


async def read_bounded(response: aiohttp.ClientResponse, first: bytes, limit: int, model: Model) -> bytes:
    """The whole body, `first` included.

    Raises:
        EngineProtocolError: it is longer than `limit` bytes.
    """
    parts, size = [first], len(first)
    while data := await response.content.readany():
        size += len(data)
        if size > limit:
            raise EngineProtocolError(
                f"model {model.name!r}: the upstream's body is over the limit of {limit} bytes"
            )
        parts.append(data)
    return b"".join(parts)


@contextlib.contextmanager
def translated(model: Model) -> Generator[None, None, None]:
    """Third-party exceptions leave as ours, the time-out that passed named with its length."""
    try:
        yield
    except EngineError:
        raise
    except aiohttp.ConnectionTimeoutError:
        raise too_slow(model, "accept a connection", model.connect_timeout_s) from None
    except TimeoutError:
        raise too_slow(model, "complete its answer", model.total_timeout_s) from None
    except aiohttp.ClientPayloadError:
        raise broken_off(model) from None
    except aiohttp.ClientResponseError as error:
        raise EngineProtocolError(
            f"model {model.name!r}: the upstream does not speak HTTP: {error.message}"
        ) from None
    except (aiohttp.ClientError, OSError) as error:
        raise EngineUnavailable(
            f"model {model.name!r}: cannot reach {_place(model)}: {_cause(error)}",
            reached=not isinstance(error, aiohttp.ClientConnectorError),
        ) from None


def too_slow(model: Model, what: str, limit_s: float) -> EngineTimeout:
    """The error that says what the server did not do, and in how long."""
    return EngineTimeout(f"model {model.name!r}: {_place(model)} did not {what} within {limit_s:g} s")


def garbage(model: Model, what: str) -> EngineProtocolError:
    """The error for an answer of another kind."""
    return EngineProtocolError(f"model {model.name!r}: the upstream sent {what} instead of a completion")


def broken_off(model: Model) -> EngineInterrupted:
    """The error for an answer that never said it had ended."""
    return EngineInterrupted(f"model {model.name!r}: the upstream's answer broke off before its end")


def _place(model: Model) -> str:
    """The server, without the credentials or query a URL may carry."""
    url = URL(model.base_url)
    return str(url.with_user(None).with_query(None)) if url.host else model.base_url


def _cause(error: Exception) -> str:
    cause = error.__cause__ or error
    return str(cause) or type(cause).__name__
