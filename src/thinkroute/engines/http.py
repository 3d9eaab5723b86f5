"""The HTTP engine: models behind servers that speak OpenAI's dialect.

Owns: connections, time-outs, the one retry, and naming every transport failure. Does not own the bodies (`wire`).

Invariants: a reply that did not say it had ended is an error, never a short answer; whatever makes a generation stop
early closes its connection at once, which is how upstreams learn of it; nothing sent or received is logged.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncGenerator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

import aiohttp
import orjson
from yarl import URL

from thinkroute.catalog import Model, family_named
from thinkroute.engines.http_reply import (
    LIMIT_BYTES,
    ReplyBody,
    is_stream,
    read_bounded,
    too_slow,
    translated,
)
from thinkroute.errors import (
    EngineProtocolError,
    EngineUnavailable,
    InvalidRequest,
    UnknownModel,
)
from thinkroute.programs.protocol import Call, Chunk, Segment
from thinkroute.wire.openai_chat.outbound import PATHS, render_request
from thinkroute.wire.openai_chat.upstream_errors import rejection
from thinkroute.wire.openai_chat.upstream_reply import ReplyReader

_ERROR_LIMIT_BYTES = 64 * 1024


@dataclass(slots=True)
class _Attempt:
    """What one attempt at a request learned about its connection."""

    connected: bool = False
    """Whether it opened a connection of its own; otherwise it was given one that the pool had kept."""


_attempt: ContextVar[_Attempt | None] = ContextVar("thinkroute_http_attempt", default=None)
"""The attempt under way, where a new connection can find it. Aiohttp's own tracing says the same for 15 µs a request."""


class HttpEngine:
    """An `Engine` over any number of models and servers, with one connection pool."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        """`models` by the name that calls use."""
        self._models = models
        # Joining a path costs more than the rest of a request's rendering, so each is joined once.
        self._urls = {
            (name, path): URL(model.base_url.rstrip("/") + path)
            for name, model in models.items()
            for path in PATHS
        }
        self._headers = {name: _headers(model.api_key) for name, model in models.items()}
        self._session: aiohttp.ClientSession | None = None
        self._unpooled: aiohttp.ClientSession | None = None
        self._open_bodies: set[aiohttp.StreamReader] = set()

    async def start(self) -> None:
        """Open the connection pool on the running loop."""
        self._session = _session(force_close=False)
        # For the one retry: a connection that no pool has kept cannot have died in it.
        self._unpooled = _session(force_close=True)

    async def aclose(self) -> None:
        """Close all connections; generations under way end with an error."""
        sessions = (self._session, self._unpooled)
        self._session = self._unpooled = None
        for body in self._open_bodies:
            # Closing a connection does not wake who waits for its next byte.
            body.set_exception(aiohttp.ClientConnectionError("the engine was closed"))
        for session in sessions:
            if session is not None:
                await session.close()

    async def generate(self, call: Call) -> AsyncGenerator[Chunk | Segment, None]:
        """Continue the call's message.

        Raises:
            EngineError: the upstream cannot be reached, is too slow, refuses, breaks off or talks nonsense.
            UnsupportedRequest: the call asks for what the model cannot do.
        """
        model = self._models.get(call.model)
        if model is None:
            raise UnknownModel(f"no upstream model {call.model!r}", param="model")
        began = time.perf_counter()
        ttft_s: float | None = None
        reader = ReplyReader(call, model)
        response, first = await self._open(call, model)
        try:
            body = ReplyBody(response, first, reader, model, streamed=is_stream(response, model, call))
            while (chunks := await body.read()) is not None:
                if ttft_s is None and any(chunk.text for chunk in chunks):
                    ttft_s = time.perf_counter() - began
                for chunk in chunks:
                    yield chunk
            yield reader.segment(time.perf_counter() - began, ttft_s)
        finally:
            # A body read to its end has given its connection back already; any other connection must not live on.
            self._close(response)

    async def _open(self, call: Call, model: Model) -> tuple[aiohttp.ClientResponse, bytes]:
        """The response of the upstream, its status known to be good, and the first bytes of its body."""
        if self._session is None or self._unpooled is None:
            raise EngineUnavailable(f"model {model.name!r}: the engine is not running")
        request = render_request(call, model)
        try:
            payload = orjson.dumps(request.body)
        except TypeError as error:
            raise InvalidRequest(f"the request cannot be written as JSON: {error}") from None
        url = self._urls[call.model, request.path]
        attempt = _Attempt()
        _attempt.set(attempt)
        limits = aiohttp.ClientTimeout(total=model.total_timeout_s, connect=model.connect_timeout_s)
        options: dict[str, Any] = {"data": payload, "headers": self._headers[call.model], "timeout": limits}
        first_byte = asyncio.timeout(model.first_byte_timeout_s)
        with translated(model):
            try:
                async with first_byte:
                    try:
                        return await self._post(self._session, url, options, model)
                    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                        if attempt.connected or isinstance(error, aiohttp.ClientConnectorError):
                            raise
                    return await self._post(self._unpooled, url, options, model)
            except TimeoutError as error:
                if first_byte.expired() and not isinstance(error, aiohttp.ConnectionTimeoutError):
                    raise too_slow(model, "send a first byte", model.first_byte_timeout_s) from None
                raise

    async def _post(
        self,
        session: aiohttp.ClientSession,
        url: URL,
        options: Mapping[str, Any],
        model: Model,
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        response = await session.post(url, allow_redirects=False, **options)
        self._open_bodies.add(response.content)
        try:
            first = await response.content.readany()
            await _check_status(response, first, model)
        except BaseException:
            self._close(response)
            raise
        return response, first

    def _close(self, response: aiohttp.ClientResponse) -> None:
        response.close()
        self._open_bodies.discard(response.content)


async def list_models(base_url: str, api_key: str | None, timeout_s: float) -> list[str]:
    """The model names a server offers at `/models`, in its order.

    Raises:
        EngineError: the server cannot be reached, refuses, or does not answer with a list of models.
    """
    server = Model(
        name=base_url,
        upstream_name="",
        engine="http",
        family=family_named("plain"),
        base_url=base_url,
        api_key=api_key,
        connect_timeout_s=timeout_s,
        total_timeout_s=timeout_s,
    )
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with _session(force_close=True) as session:
        with translated(server):
            url = URL(base_url.rstrip("/")).joinpath("models")
            async with session.get(url, headers=_headers(api_key), timeout=timeout) as response:
                body = await read_bounded(response, b"", LIMIT_BYTES, server)
                if response.status != 200:
                    raise rejection(server, response.status, body)
    return _model_names(body, server)


def _model_names(body: bytes, server: Model) -> list[str]:
    try:
        payload: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        payload = None
    entries = cast("dict[str, object]", payload).get("data") if isinstance(payload, dict) else None
    if not isinstance(entries, list):
        raise EngineProtocolError(f"{server.name}: /models did not answer with a list of models")
    ids = [
        cast("dict[str, object]", e).get("id") for e in cast("list[object]", entries) if isinstance(e, dict)
    ]
    return [name for name in ids if isinstance(name, str)]


def _session(*, force_close: bool) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=force_close, socket_factory=_new_socket),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _new_socket(address: tuple[Any, ...]) -> socket.socket:
    """What aiohttp would make itself, noted in the attempt that needs it."""
    if (attempt := _attempt.get()) is not None:
        attempt.connected = True
    return socket.socket(*address[:3])


def _headers(api_key: str | None) -> dict[str, str]:
    # Compressing a stream of small events costs both sides more than it saves.
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "thinkroute"}
    return {**headers, "Authorization": f"Bearer {api_key}"} if api_key else headers


async def _check_status(response: aiohttp.ClientResponse, first: bytes, model: Model) -> None:
    if not 200 <= response.status < 300:
        body = first
        while len(body) < _ERROR_LIMIT_BYTES and (data := await response.content.readany()):
            body += data
        raise rejection(model, response.status, body, response.headers.get("Retry-After"))
