"""The upstream that costs next to nothing: fixed answers to `/v1/chat/completions`, as JSON or as 20 events.

Run as a process of its own (`python -m harness.upstream`); it prints its port. A `pace_ms` field in the request, which
gateways forward like every field they do not know, spaces the events out as a real model's tokens are.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from typing import cast

import orjson
import uvloop

CHUNKS = 20
FIRST_WORD = b"word0"
"""The first text of every answer; the load client looks for it to know the time to first token."""

_PACE = re.compile(rb'"pace_ms":\s*(\d+)')
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_STREAMS = re.compile(rb'"stream":\s*true')


def json_response() -> bytes:
    """The whole answer that is not streamed."""
    message = {"role": "assistant", "content": "".join(f"word{i} " for i in range(CHUNKS))}
    body = orjson.dumps(
        {
            **_head("chat.completion"),
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": _usage(),
        }
    )
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    )


def stream_parts() -> list[bytes]:
    """The writes of a streamed answer: headers with the first event, the other events, usage and terminator."""
    events = [_event({"content": f"word{i} "}, None) for i in range(CHUNKS - 1)]
    events.append(_event({"content": f"word{CHUNKS - 1} "}, "stop"))
    usage = _data({**_head("chat.completion.chunk"), "choices": [], "usage": _usage()})
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    last = _framed(usage + b"data: [DONE]\n\n") + b"0\r\n\r\n"
    return [head + _framed(events[0]), *(_framed(event) for event in events[1:]), last]


def _head(kind: str) -> dict[str, object]:
    return {"id": "chatcmpl-benchmark", "object": kind, "created": 1_700_000_000, "model": "benchmark"}


def _usage() -> dict[str, int]:
    return {"prompt_tokens": 50, "completion_tokens": CHUNKS, "total_tokens": 50 + CHUNKS}


def _event(delta: dict[str, str], finish: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return _data({**_head("chat.completion.chunk"), "choices": [choice]})


def _data(payload: dict[str, object]) -> bytes:
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Upstream(asyncio.Protocol):
    """One connection. Requests on it come one after the other."""

    json = json_response()
    parts = stream_parts()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's are of no common class
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        """Answer once the request is complete."""
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        length = _LENGTH.search(self._buffer, 0, head_end)
        if len(self._buffer) < head_end + 4 + (int(length[1]) if length else 0):
            return
        request, self._buffer = self._buffer, b""
        if not _STREAMS.search(request, head_end):
            self._write(self.json)
            return
        pace = _PACE.search(request, head_end)
        self._send(iter(self.parts), int(pace[1]) / 1000 if pace else 0.0)

    def _send(self, parts: Iterator[bytes], pace_s: float) -> None:
        """The next part now, the rest from later turns of the loop, so that each is a write of its own."""
        part = next(parts, None)
        if part is not None:
            self._write(part)
            asyncio.get_running_loop().call_later(pace_s, self._send, parts, pace_s)

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve())
