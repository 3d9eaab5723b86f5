"""The least a Python gateway on the same stack can cost: parse, forward, pass the bytes back. Nothing decided or kept.

Raw ASGI on uvicorn with an aiohttp client, as thinkroute is built; what the gateway costs beyond this is its own doing,
and how much this one costs tells how fast the machine was. `python -m harness.bare_proxy PORT UPSTREAM_PORT`.
"""

from __future__ import annotations

import sys
from typing import Any

import aiohttp
import orjson
import uvicorn

from thinkroute.gateway.asgi import Receive, Scope, Send


class BareProxy:
    """Forwards every POST to the upstream's chat completions."""

    def __init__(self, upstream_port: int) -> None:
        self._url = f"http://127.0.0.1:{upstream_port}/v1/chat/completions"
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one scope."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        await self._forward({**orjson.loads(body), "model": "benchmark"}, send)

    async def _forward(self, body: dict[str, Any], send: Send) -> None:
        assert self._session is not None  # noqa: S101 - the lifespan came first
        headers = {"content-type": "application/json"}
        async with self._session.post(self._url, data=orjson.dumps(body), headers=headers) as answer:
            kind = answer.headers["content-type"].encode()
            raw = [(b"content-type", kind)]
            if answer.content_length is not None:
                raw.append((b"content-length", str(answer.content_length).encode()))
            await send({"type": "http.response.start", "status": answer.status, "headers": raw})
            async for part in answer.content.iter_any():
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._session.close()
        await send({"type": "lifespan.shutdown.complete"})


if __name__ == "__main__":
    uvicorn.run(BareProxy(int(sys.argv[2])), port=int(sys.argv[1]), log_level="warning", access_log=False)
