"""A real gateway on a loopback port, in the test's own event loop, in front of whatever engines a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
import pytest
import uvicorn

from thinkroute.config import Config, resolve
from thinkroute.engines.http import HttpEngine
from thinkroute.gateway.app import App
from thinkroute.gateway.assemble import assemble
from thinkroute.gateway.runtime import Runtime
from thinkroute.gateway.serve import bind
from thinkroute.programs.protocol import Engine
from thinkroute.routers.cascade import CascadeRules
from thinkroute.routers.prior import PriorRouter
from thinkroute.store import DecisionRecord, MemoryStore

HELLO: Mapping[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "Hello?"}]}


@dataclass
class Gateway:
    """What tests talk to."""

    url: str
    runtime: Runtime
    session: aiohttp.ClientSession

    async def chat(self, headers: Mapping[str, str] | None = None, **fields: Any) -> aiohttp.ClientResponse:
        """Post a chat request; fields are laid over a minimal one."""
        response = await self.session.post(
            f"{self.url}/v1/chat/completions", data=orjson.dumps({**HELLO, **fields}), headers=headers
        )
        if response.content_type != "text/event-stream":
            await response.read()
        return response

    async def request(self, method: str, path: str, **more: Any) -> aiohttp.ClientResponse:
        """Any request, its body read."""
        response = await self.session.request(method, self.url + path, **more)
        await response.read()
        return response

    async def post(
        self, path: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> aiohttp.ClientResponse:
        """Post raw bytes."""
        return await self.request("POST", path, data=body, headers=headers)

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> aiohttp.ClientResponse:
        """Get a path."""
        return await self.request("GET", path, headers=headers)

    def record(self) -> DecisionRecord:
        """The newest decision record."""
        record = self.runtime.store.newest()
        assert record is not None
        return record

    async def recorded(self, count: int = 1, within_s: float = 2.0) -> DecisionRecord:
        """The newest record once there are `count`: a record is written just after the caller is gone."""
        deadline = asyncio.get_running_loop().time() + within_s
        while len(list(self.runtime.store.iter_records())) < count:
            assert asyncio.get_running_loop().time() < deadline, "no record was written"
            await asyncio.sleep(0.01)
        return self.record()


GatewayFactory = Callable[..., AbstractAsyncContextManager[Gateway]]


@asynccontextmanager
async def serving(
    settings: Mapping[str, Any],
    engines: Mapping[str, Engine] | None = None,
    cascades: CascadeRules | None = None,
) -> AsyncGenerator[Gateway]:
    """Serve a configuration; models use the real HTTP engine unless engines are given."""
    config = Config.model_validate({"server": {"port": 0}, **settings})
    resolved = resolve(config)
    router = PriorRouter([arm.id for arm in resolved.arms], resolved.declared_quality)
    http = HttpEngine(resolved.models)
    upstreams = engines or dict.fromkeys(resolved.models, http)
    async with serving_runtime(
        Runtime(resolved, upstreams, router, MemoryStore(), cascades=cascades)
    ) as gateway:
        yield gateway


@asynccontextmanager
async def serving_runtime(runtime: Runtime) -> AsyncGenerator[Gateway]:
    """Serve what was put together already; its configuration has to name port 0."""
    listener = bind(runtime.resolved.config.server)
    server = uvicorn.Server(uvicorn.Config(App(runtime), lifespan="on", log_config=None, access_log=False))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        assert not task.done(), "the server did not start"
        await asyncio.sleep(0.005)
    try:
        async with aiohttp.ClientSession() as session:
            yield Gateway(f"http://127.0.0.1:{listener.getsockname()[1]}", runtime, session)
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 15)


@pytest.fixture
def gateway() -> GatewayFactory:
    """A factory of gateways: `async with gateway({...}) as g`."""
    return serving


@pytest.fixture
async def fleet() -> AsyncGenerator[Gateway]:
    """The gateway as it comes, over the embedded fleet."""
    config = Config.model_validate({"server": {"port": 0}, "store": {"path": "memory"}})
    async with serving_runtime(assemble(config)) as served:
        yield served


async def sse(response: aiohttp.ClientResponse) -> list[Any]:
    """All events of a stream, decoded; the last is "[DONE]" when it came."""
    events: list[Any] = []
    async for line in response.content:
        if line.startswith(b"data: "):
            data = line[6:].strip()
            events.append("[DONE]" if data == b"[DONE]" else orjson.loads(data))
    return events


def text_of(events: list[Any], name: str = "content") -> str:
    """The text of one delta field over a stream."""
    chunks = [event for event in events if event != "[DONE]" and "choices" in event]
    return "".join(choice["delta"].get(name) or "" for chunk in chunks for choice in chunk["choices"])
