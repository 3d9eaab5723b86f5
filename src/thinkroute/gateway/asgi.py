"""The little of HTTP the gateway needs on raw ASGI: requests with limits, replies, and noticing that a caller left.

Raw ASGI because a framework costs more CPU than the decision itself; see docs/adr/0001.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from thinkroute.errors import InvalidRequest, RequestTooLarge

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_BODY_TIMEOUT_S = 60.0
OWN_PREFIX = b"x-thinkroute-"
"""Every header of ours starts like this; a caller's are dropped on the way in."""


class CallerLeft(Exception):
    """The caller closed the connection before the answer was complete."""


@dataclass(slots=True)
class Request:
    """One HTTP request: headers lower-cased, ours stripped, body read on demand and never beyond the limit."""

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    receive: Receive
    send: Send
    key_id: str | None = None
    """Which configured key the caller used; None when none are configured."""
    started: bool = field(default=False, init=False)
    """Whether response headers have been sent."""
    _left: bool = field(default=False, init=False)

    @classmethod
    def of(cls, scope: Scope, receive: Receive, send: Send) -> Request:
        """The request of an ASGI scope."""
        headers = {name: value for name, value in scope["headers"] if not name.startswith(OWN_PREFIX)}
        return cls(scope["method"], scope["path"], headers, receive, send)

    async def body(self, max_bytes: int) -> bytes:
        """The whole body.

        Raises:
            RequestTooLarge: declared or actual size over `max_bytes`; nothing more is read.
            InvalidRequest: it is compressed, or did not arrive within a minute.
            CallerLeft: the connection closed first.
        """
        try:
            async with asyncio.timeout(_BODY_TIMEOUT_S):
                return await self._read(max_bytes)
        except TimeoutError:
            raise InvalidRequest(f"the body did not arrive within {_BODY_TIMEOUT_S:.0f} s") from None

    async def _read(self, max_bytes: int) -> bytes:
        declared = self.headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > max_bytes:
            raise RequestTooLarge(f"the body is {int(declared)} bytes; the limit is {max_bytes}")
        if self.headers.get(b"content-encoding", b"identity") != b"identity":
            raise InvalidRequest("compressed request bodies are not accepted; send the body uncompressed")
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise CallerLeft
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > max_bytes:
                raise RequestTooLarge(f"the body is over the limit of {max_bytes} bytes")
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)

    async def start(self, status: int, headers: Mapping[str, str], content_type: str) -> None:
        """Send status and headers."""
        self.started = True
        raw = [(name.encode("latin-1"), _header_value(value)) for name, value in headers.items()]
        raw.append((b"content-type", content_type.encode()))
        await self.send({"type": "http.response.start", "status": status, "headers": raw})

    async def write(self, part: bytes, *, more: bool = True) -> None:
        """Send a part of the body."""
        await self.send({"type": "http.response.body", "body": part, "more_body": more})

    async def reply(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> None:
        """Send a whole response."""
        await self.start(status, {**(headers or {}), "content-length": str(len(body))}, content_type)
        await self.write(body, more=False)

    async def reply_json(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        """Send a JSON response."""
        await self.reply(status, orjson.dumps(value), headers)

    async def while_connected(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work`; cancel it as soon as the caller leaves. The body must have been read before.

        Raises:
            CallerLeft: the caller left and the work has been cancelled and has cleaned up.
        """
        working = asyncio.current_task()
        if working is None:  # pragma: no cover - a coroutine always runs in a task
            raise RuntimeError("while_connected needs a running task")
        watch = asyncio.ensure_future(self._cancel_when_left(working))
        cancelling = working.cancelling()
        try:
            await work
        except asyncio.CancelledError:
            if self._left and working.uncancel() <= cancelling:
                raise CallerLeft from None
            raise
        finally:
            watch.cancel()

    async def _cancel_when_left(self, working: asyncio.Task[Any]) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self._left = True
        working.cancel()


def _header_value(value: str) -> bytes:
    """Header bytes; anything that could break a header line or is not Latin-1 is replaced."""
    raw = value.replace("→", "->").encode("latin-1", "replace")
    return raw.translate(_PRINTABLE)


_PRINTABLE = bytes(byte if 32 <= byte != 127 else 32 for byte in range(256))


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only be this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
