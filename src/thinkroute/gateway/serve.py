"""Listening: the socket, uvicorn, and the rule that only a key opens other addresses than loopback."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import Callable

from thinkroute.config.schema import ServerSection
from thinkroute.errors import ConfigError
from thinkroute.gateway.app import App
from thinkroute.gateway.asgi import is_loopback
from thinkroute.gateway.runtime import Runtime

_BACKLOG = 2048
_GRACE_S = 10


def check_exposure(server: ServerSection) -> None:
    """Refuse to listen beyond loopback without a key.

    Raises:
        ConfigError: the address is not loopback and no key is configured.
    """
    if is_loopback(server.host) or server.api_keys:
        return
    raise ConfigError(
        f"server.host {server.host!r} is reachable from other machines and no key is set; "
        "set server.api_keys (for example ['${THINKROUTE_API_KEY}']), or listen on 127.0.0.1",
        param="server.host",
    )


def bind(server: ServerSection) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: the address is taken, unknown, or exposed without a key.
    """
    check_exposure(server)
    host = server.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, server.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {server.host}:{server.port}: {error.strerror}; choose another with --port"
        ) from error
    return listener


def run(runtime: Runtime, *, log_level: str = "info", on_ready: Callable[[str], None] | None = None) -> None:
    """Serve until interrupted. `on_ready` is called with the base URL once requests are accepted."""
    import uvicorn

    if log_level.upper() not in logging.getLevelNamesMapping():
        raise ConfigError(
            f"unknown log level {log_level!r}: use debug, info, warning or error", param="log_level"
        )
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    server = runtime.resolved.config.server
    listener = bind(server)
    port = listener.getsockname()[1]
    host = f"[{server.host}]" if ":" in server.host else server.host

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            # What start-up made stays for good: the collector need not walk it again under every load.
            gc.collect()
            gc.freeze()
            if on_ready is not None and not self.should_exit:
                on_ready(f"http://{host}:{port}")

    config = uvicorn.Config(
        App(runtime),
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_S,
        backlog=_BACKLOG,
    )
    serving = Server(config)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(serving.serve(sockets=[listener]))
    if not serving.started:
        raise ConfigError("the gateway could not start; the log above says why")
