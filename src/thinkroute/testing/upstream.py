"""`FakeUpstream`: a real HTTP server of OpenAI's dialect on the loopback interface, for testing whole paths.

    async with FakeUpstream(Reply("4", reasoning="two and two")) as upstream:
        engine = HttpEngine({"m": Model(..., base_url=upstream.base_url)})

Owns: the socket, playing faults, and what was received. What it says is `upstream_body`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import orjson
from aiohttp import web

from thinkroute.testing.faults import (
    Break,
    ErrorEvent,
    Fault,
    Garbage,
    HangAfterChunks,
    HangBeforeHeaders,
    Reset,
    Status,
)
from thinkroute.testing.reply import Reply
from thinkroute.testing.upstream_body import Completion, Quirks
from thinkroute.wire.sse import DONE, render_json

_KNOWN_FIELDS = frozenset({
    "model", "messages", "prompt", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature",
    "top_p", "seed", "stop", "tools", "tool_choice", "logprobs", "top_logprobs", "response_format", "n", "user",
})  # fmt: skip
_FOREVER_S = 3600.0


@dataclass(slots=True)
class ReceivedRequest:
    """One request as the server saw it."""

    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    received_at_s: float = field(default_factory=time.monotonic)
    disconnected_at_s: float | None = None
    """When the client left before the response was complete (monotonic clock); None when it did not."""
    completed: bool = False
    """Whether the response, or the fault, was played to its end."""


class FakeUpstream:
    """An async context manager that serves `/v1/chat/completions`, `/v1/completions` and `/v1/models`."""

    def __init__(
        self,
        script: Callable[[Mapping[str, Any]], Reply] | Reply | str = "Hello there.",
        *,
        faults: Sequence[Fault | None] = (),
        quirks: Quirks | None = None,
        token_delay_s: float = 0.0,
        models: Sequence[str] = ("fake",),
    ) -> None:
        """Answer from `script`, a function of the request's body or one reply for all.

        Args:
            script: What the model says.
            faults: Played one a request, in order; None and the end of the list mean none.
            quirks: How this server differs from others.
            token_delay_s: Pause before each event.
            models: Names listed at `/v1/models`.
        """
        self._script = script
        self._faults = list(faults)
        self._quirks = quirks or Quirks()
        self._token_delay_s = token_delay_s
        self._models = models
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self.base_url = ""
        """The API root, once entered."""
        self.requests: list[ReceivedRequest] = []
        self._peers: set[object] = set()

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_get("/v1/models", self._list_models)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await self._site.start()
        host, port = self._runner.addresses[0][:2]
        self.base_url = f"http://{host}:{port}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def connections(self) -> int:
        """Connections on which at least one completion was asked for."""
        return len(self._peers)

    async def refuse(self) -> None:
        """Stop listening: new connections are refused from now on."""
        if self._site is not None:
            await self._site.stop()

    async def disconnected(self, within_s: float = 1.0) -> bool:
        """Whether the client of the latest request leaves within this time."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if self.requests and self.requests[-1].disconnected_at_s is not None:
                return True
            await asyncio.sleep(0.005)
        return False

    async def _list_models(self, request: web.Request) -> web.StreamResponse:
        entries = [{"id": name, "object": "model"} for name in self._models]
        return web.json_response({"object": "list", "data": entries})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        received = ReceivedRequest(request.path, dict(request.headers), orjson.loads(await request.read()))
        self.requests.append(received)
        self._peers.add(_transport(request).get_extra_info("peername"))
        try:
            response = await self._respond(request, received.body)
        except (asyncio.CancelledError, ConnectionError):
            received.disconnected_at_s = time.monotonic()
            raise
        received.completed = True
        return response

    async def _respond(self, request: web.Request, body: Mapping[str, Any]) -> web.StreamResponse:
        fault = self._faults.pop(0) if self._faults else None
        if isinstance(fault, Reset):
            _transport(request).abort()
            return web.Response()
        if isinstance(fault, HangBeforeHeaders):
            await asyncio.sleep(_FOREVER_S)
        if isinstance(fault, Garbage):
            return web.Response(body=fault.body, headers={"Content-Type": fault.content_type})
        if isinstance(fault, Status):
            return _status(fault)
        unknown = sorted(set(body) - _KNOWN_FIELDS)
        if self._quirks.rejects_unknown_fields and unknown:
            detail = [{"loc": ["body", name], "msg": "Extra inputs are not permitted"} for name in unknown]
            return web.json_response({"detail": detail}, status=422)
        reply = self._script(body) if callable(self._script) else self._script
        reply = Reply(reply) if isinstance(reply, str) else reply
        completion = Completion(body, reply, self._quirks, chat=request.path.endswith("/chat/completions"))
        if body.get("stream"):
            return await self._stream(request, completion.events(), fault)
        await asyncio.sleep(self._token_delay_s)
        return await _send_body(request, completion.body(), fault)

    async def _stream(
        self, request: web.Request, events: list[bytes], fault: Fault | None
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if isinstance(fault, Break):
            await response.write(b"".join(events)[: _break_offset(events, fault)])
            return await _end(request, response, clean=fault.clean)
        if isinstance(fault, ErrorEvent):
            events = [*events[: fault.chunks], _error_event(fault), DONE]
        for position, event in enumerate(events):
            if isinstance(fault, HangAfterChunks) and position == fault.chunks:
                await asyncio.sleep(_FOREVER_S)
            if self._token_delay_s:
                await asyncio.sleep(self._token_delay_s)
            await response.write(event)
        await response.write_eof()
        if self._quirks.closes_after_stream:
            _transport(request).close()
        return response


def _transport(request: web.Request) -> asyncio.Transport:
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client has left")
    return transport  # type: ignore[return-value]


async def _send_body(request: web.Request, body: bytes, fault: Fault | None) -> web.StreamResponse:
    if not isinstance(fault, Break):
        return web.Response(body=body, headers={"Content-Type": "application/json"})
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(body[: fault.at if isinstance(fault.at, int) else len(body) // 2])
    return await _end(request, response, clean=fault.clean)


async def _end(request: web.Request, response: web.StreamResponse, *, clean: bool) -> web.StreamResponse:
    if clean:
        await response.write_eof()
    else:
        _transport(request).close()  # sends what is buffered, but not the end of the chunked body
    return response


def _break_offset(events: Sequence[bytes], fault: Break) -> int:
    """Bytes of the stream that are sent before it breaks."""
    if isinstance(fault.at, int):
        return fault.at
    stream = b"".join(events)
    if fault.at == "mid_utf8":
        return (
            next(i for i, byte in enumerate(stream) if byte >= 0x80) + 1
        )  # inside the first multibyte character
    whole = {
        "after_role": 1,
        "mid_event": len(events) // 2,
        "before_finish": next(i for i, event in enumerate(events) if b'"finish_reason":"' in event),
        "before_usage": next((i for i, event in enumerate(events) if b'"usage":' in event), len(events) - 1),
        "before_terminator": len(events) - 1,
    }[fault.at]
    return len(b"".join(events[:whole])) + (20 if fault.at == "mid_event" else 0)


def _error_event(fault: ErrorEvent) -> bytes:
    error = {"message": "the model crashed", "type": "engine_error", "code": fault.code}
    return render_json(orjson.dumps({"error": error}))


def _status(fault: Status) -> web.Response:
    error = {"message": fault.message, "type": fault.error_type, "param": None, "code": None}
    body = orjson.dumps({"error": error}) if fault.body is None else fault.body
    headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
    kind = "application/json" if fault.body is None else "text/html"
    return web.Response(body=body, status=fault.status, headers={**headers, "Content-Type": kind})
