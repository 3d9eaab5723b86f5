"""The ASGI application: paths, keys, and the one place where an error becomes a response."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping

from thinkroute.errors import (
    ForeignOrigin,
    MethodNotAllowed,
    NotFound,
    ThinkrouteError,
    Unauthorized,
    http_status,
)
from thinkroute.gateway.asgi import CallerLeft, Receive, Request, Scope, Send, is_loopback
from thinkroute.gateway.chat import chat
from thinkroute.gateway.decisions import explain, feedback
from thinkroute.gateway.models import list_models, show_model
from thinkroute.gateway.runtime import Runtime
from thinkroute.wire.openai_chat.rendering import render_error

logger = logging.getLogger(__name__)

Handler = Callable[[Runtime, Request], Awaitable[None]]

_OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Reachable without a key: they say nothing but alive and ready."""


async def _healthz(runtime: Runtime, http: Request) -> None:
    await http.reply_json(200, {"status": "ok"})


async def _readyz(runtime: Runtime, http: Request) -> None:
    await http.reply_json(200, {"status": "ready"})


async def _metrics(runtime: Runtime, http: Request) -> None:
    await http.reply(
        200, runtime.metrics.render(runtime.store.dropped), content_type=runtime.metrics.content_type
    )


_EXACT: Mapping[str, Mapping[str, Handler]] = {
    "/v1/chat/completions": {"POST": chat},
    "/v1/models": {"GET": list_models},
    "/healthz": {"GET": _healthz},
    "/readyz": {"GET": _readyz},
    "/metrics": {"GET": _metrics},
}


def _handlers(path: str) -> Mapping[str, Handler]:
    """Handlers of a path by method.

    Raises:
        NotFound: no such path; the message lists the paths there are.
    """
    if (exact := _EXACT.get(path)) is not None:
        return exact
    if path.startswith("/v1/models/"):
        return {"GET": show_model}
    if path.startswith("/v1/decisions/"):
        if path.endswith("/feedback"):
            return {"POST": feedback}
        return {"GET": explain}
    raise NotFound(
        f"no path {path!r:.200}; there are {', '.join(_EXACT)}, "
        "/v1/decisions/<id> and /v1/decisions/<id>/feedback"
    )


def _handler(http: Request) -> Handler:
    """The handler of a request; HEAD is answered as GET (the server drops the body).

    Raises:
        NotFound: no such path.
        MethodNotAllowed: the path exists, the method does not.
    """
    handlers = _handlers(http.path)
    method = "GET" if http.method == "HEAD" else http.method
    if method not in handlers:
        raise MethodNotAllowed(f"{http.path} takes {' or '.join(handlers)}, not {http.method}")
    return handlers[method]


def _check_local(http: Request) -> None:
    """Without keys, loopback is the only lock: keep web pages in the user's browser from reaching through it.

    Raises:
        ForeignOrigin: the `Host` or `Origin` header names another machine.
    """
    names = [http.headers.get(b"host", b"").decode("latin-1") or "localhost"]
    if (origin := http.headers.get(b"origin")) is not None:
        # `null` and schemes without a host are what sandboxed and local pages send: nobody we know.
        names.append(origin.decode("latin-1").partition("://")[2] or "null")
    if http.headers.get(b"sec-fetch-site") == b"cross-site":
        names.append("cross-site")
    for name in names:
        if not is_loopback(_without_port(name)):
            raise ForeignOrigin(
                f"{name!r:.100} is not this machine and the gateway has no key; set server.api_keys to serve others"
            )


def _without_port(name: str) -> str:
    bare = name.rpartition(":")[0] if ":" in name and not name.endswith("]") else name
    return bare.lower().rstrip(".")


class App:
    """The gateway as an ASGI callable. The runtime is started and closed by the lifespan."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        keys = runtime.resolved.config.server.api_keys
        self._keys = [hashlib.sha256(key.get_secret_value().encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one scope."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(Request.of(scope, receive, send))
        else:  # a websocket: refuse the handshake
            await send({"type": "websocket.close", "code": 1000})

    async def _http(self, http: Request) -> None:
        try:
            if http.path not in _OPEN_PATHS:
                http.key_id = self._key_id(http)
            await _handler(http)(self._runtime, http)
        except CallerLeft:
            return
        except ThinkrouteError as error:
            await _reply_error(http, error)
        except Exception:
            logger.exception("%s %s failed unexpectedly", http.method, http.path)
            await _reply_error(http, ThinkrouteError("an internal error happened; see the gateway's log"))

    def _key_id(self, http: Request) -> str | None:
        """Which key the caller sent: the first digits of its hash, enough to tell keys apart in the log.

        Raises:
            Unauthorized: keys are configured and none of them was sent.
            ForeignOrigin: no key is configured and a web page of another site asks.
        """
        if not self._keys:
            _check_local(http)
            return None
        scheme, _, sent = http.headers.get(b"authorization", b"").partition(b" ")
        digest = hashlib.sha256(sent.strip()).digest()
        matches = [
            hmac.compare_digest(digest, key) for key in self._keys
        ]  # all of them: no early exit to time
        if scheme.lower() != b"bearer" or not any(matches):
            raise Unauthorized("send one of the configured keys as `Authorization: Bearer <key>`")
        return digest.hex()[:12]

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._runtime.start()
        except Exception as error:
            logger.exception("the gateway could not start")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await self._runtime.aclose()
        except Exception as error:
            logger.exception("the gateway could not shut down cleanly")
            await send({"type": "lifespan.shutdown.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})


async def _reply_error(http: Request, error: ThinkrouteError) -> None:
    if not http.started:
        status, _ = http_status(error)
        headers = {"www-authenticate": "Bearer"} if status == 401 else {}
        await http.reply(status, render_error(error), headers)
