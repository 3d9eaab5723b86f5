"""The remote encoder against a real server on the loopback: vectors, cache, time limits, and clear failures."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest
from aiohttp import web

from thinkroute.errors import ConfigError, EngineProtocolError, EngineTimeout, EngineUnavailable
from thinkroute.signals import EncoderState, fit_encoder, restore_encoder
from thinkroute.signals.base import Scalar
from thinkroute.signals.remote import RemoteEncoder


@dataclass
class Server:
    """An embeddings endpoint whose vectors tell the text's length, and which can be told to misbehave."""

    url: str = ""
    mode: str = "right"
    asked: list[list[str]] = field(default_factory=list[list[str]])
    keys: list[str | None] = field(default_factory=list[str | None])
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        body = cast("dict[str, Any]", await request.json())
        assert body["model"] == "tiny"
        texts = cast("list[str]", body["input"])
        self.asked.append(texts)
        self.keys.append(request.headers.get("Authorization"))
        vectors: list[list[float]] = [[float(len(text)), 1.0, 2.0] for text in texts]
        match self.mode:
            case "slow":
                await self.over.wait()
            case "broken":
                return web.json_response({"error": "out of memory"}, status=500)
            case "moved":
                raise web.HTTPFound("http://127.0.0.1:9/v1/embeddings")
            case "wide":
                vectors = [[*vector, 3.0] for vector in vectors]
            case "few":
                vectors = vectors[1:]
            case "prose":
                return web.Response(text="I am a web page")
            case "hang up" if len(self.asked) == 2:
                assert request.transport is not None
                request.transport.close()
            case _:
                pass
        items = [{"index": place, "embedding": vector} for place, vector in enumerate(vectors)]
        return web.json_response({"data": items[::-1]})


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    loop = asyncio.new_event_loop()
    started = threading.Event()

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/v1/embeddings", found.embeddings)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        started.set()
        await found.over.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert started.wait(10)
    yield found
    loop.call_soon_threadsafe(found.over.set)
    thread.join(10)
    loop.close()


@pytest.fixture
def encoder(server: Server) -> Iterator[RemoteEncoder]:
    found = connect(server)
    yield found
    found.close()


def connect(server: Server, **settings: Scalar) -> RemoteEncoder:
    given: dict[str, Scalar] = {"url": server.url, "model": "tiny", "timeout_s": 5.0, **settings}
    found = fit_encoder("remote", (), given)
    assert isinstance(found, RemoteEncoder)
    server.asked.clear()
    return found


def test_vectors_are_the_servers_at_unit_length_in_the_order_asked(encoder: RemoteEncoder) -> None:
    assert encoder.dimension == 3
    batch = encoder.encode_batch(["abc", "a", "abc"])
    for row, text in zip(batch, ("abc", "a", "abc"), strict=True):
        expected = np.array([len(text), 1, 2]) / np.sqrt(len(text) ** 2 + 5)
        np.testing.assert_allclose(row, expected, rtol=1e-6)
    np.testing.assert_array_equal(batch[0], encoder.encode("abc"))
    assert encoder.encode_batch([]).shape == (0, 3)


def test_texts_seen_before_are_not_asked_for_again(server: Server, encoder: RemoteEncoder) -> None:
    encoder.encode_batch(["one", "two", "one"])
    encoder.encode("two")
    assert server.asked == [["one", "two"]]


def test_the_cache_forgets_what_was_unused_longest(server: Server) -> None:
    encoder = connect(server, cache_size=2, batch_size=2)
    for text in ("a", "b", "a", "c", "a", "b"):
        encoder.encode(text)
    encoder.close()
    assert server.asked == [["a"], ["b"], ["c"], ["b"]]


def test_many_texts_are_asked_for_in_batches(server: Server) -> None:
    encoder = connect(server, batch_size=2)
    encoder.encode_batch(["a", "bb", "ccc", "dddd", "eeeee"])
    encoder.close()
    assert [len(texts) for texts in server.asked] == [2, 2, 1]


def test_long_texts_are_cut_before_they_are_sent(server: Server) -> None:
    encoder = connect(server, head_bytes=5, tail_bytes=3)
    encoder.encode("12345" + "x" * 100_000 + "678")
    encoder.encode("\ud800\x00")
    encoder.close()
    assert server.asked == [["12345 678"], ["?\x00"]]


def test_the_key_comes_from_the_environment_and_is_never_saved(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDINGS_KEY", "secret-key")
    encoder = connect(server, api_key="${EMBEDDINGS_KEY}")
    encoder.encode("text")
    encoder.close()
    assert server.keys[-1] == "Bearer secret-key"
    assert "secret-key" not in str(encoder.state())


def test_a_saved_encoder_asks_nothing_until_it_is_used(server: Server) -> None:
    encoder = connect(server)
    again = restore_encoder(encoder.state())
    assert isinstance(again, RemoteEncoder)
    assert (again.dimension, server.asked) == (3, [])
    np.testing.assert_array_equal(again.encode("same"), encoder.encode("same"))
    encoder.close()
    again.close()


async def test_prefetching_leaves_the_loop_free_and_the_text_in_the_cache(
    server: Server, encoder: RemoteEncoder
) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    await encoder.prefetch(["soon wanted"])
    ticking.cancel()
    assert ticks > 1
    encoder.encode("soon wanted")
    assert server.asked == [["soon wanted"]]


def test_a_server_that_takes_too_long_is_a_timeout(server: Server) -> None:
    encoder = connect(server, timeout_s=0.2)
    server.mode = "slow"
    start = time.perf_counter()
    with pytest.raises(EngineTimeout, match=r"tiny.*0\.2 s"):
        encoder.encode("text")
    assert time.perf_counter() - start < 5
    encoder.close()


@pytest.mark.parametrize(
    ("mode", "error", "message"),
    [
        ("broken", EngineUnavailable, "answered 500.*out of memory"),
        ("moved", EngineUnavailable, "answered 302"),
        ("wide", EngineProtocolError, "length 4, not 3"),
        ("few", EngineProtocolError, "1 vectors for 2 texts"),
        ("prose", EngineProtocolError, "no list of embeddings"),
    ],
)
def test_a_wrong_answer_is_an_error_that_says_what_was_wrong(
    server: Server, encoder: RemoteEncoder, mode: str, error: type[Exception], message: str
) -> None:
    server.mode = mode
    with pytest.raises(error, match=message):
        encoder.encode_batch(["one", "two"])
    server.mode = "right"
    assert encoder.encode("one").shape == (3,)


def test_a_connection_the_server_dropped_is_tried_once_more(server: Server, encoder: RemoteEncoder) -> None:
    encoder.encode("first")
    server.mode = "hang up"
    assert encoder.encode("second").shape == (3,)
    assert server.asked == [["first"], ["second"], ["second"]]


def test_nobody_listening_is_an_error_that_names_the_endpoint() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    with pytest.raises(EngineUnavailable, match=url):
        fit_encoder("remote", (), {"url": url, "model": "tiny"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "url"),
        ({"url": "ftp://host"}, "url"),
        ({"url": "http://host/v1"}, "model is not set"),
        ({"url": "http://host/v1", "model": "m", "api_key": "sk-plain"}, "reference"),
        ({"url": "http://host/v1", "model": "m", "api_key": "${THINKROUTE_NO_SUCH_KEY}"}, "not set"),
        ({"url": "http://host/v1", "model": "m", "timeout_s": 0.0}, "timeout_s"),
        ({"url": "http://host/v1", "model": "m", "cache_size": 1}, "cache_size"),
        ({"url": "http://host/v1", "model": "m", "colour": 3}, "no setting 'colour'"),
        ({"url": "http://host/v1", "model": "m", "timeout_s": "soon"}, "of type float"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Scalar], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        restore_encoder(EncoderState("remote", settings))


def test_closing_twice_and_before_anything_was_asked_is_harmless(server: Server) -> None:
    for _ in range(20):
        encoder = connect(server)
        encoder.close()
        encoder.encode("a")
        encoder.close()
        encoder.close()
    assert not [thread for thread in threading.enumerate() if thread.is_alive() and _lingers(thread)]


def _lingers(thread: threading.Thread) -> bool:
    thread_is_ours = thread.name == "thinkroute-embeddings"
    if thread_is_ours:
        thread.join(timeout=5)
    return thread_is_ours and thread.is_alive()
