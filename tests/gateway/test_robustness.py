"""Hostile callers and failing upstreams: a clear error, never a 500, never a hang, and a record that says so."""

from __future__ import annotations

import asyncio
import io
import socket
import time
from typing import Any

import orjson
import pytest

from tests.gateway.conftest import Gateway, GatewayFactory, sse, text_of
from thinkroute.testing import (
    Break,
    ErrorEvent,
    FakeUpstream,
    Fault,
    Garbage,
    HangAfterChunks,
    HangBeforeHeaders,
    Reply,
    Reset,
    Status,
)

REPLY = Reply("one two three été five six seven eight", reasoning="a b c")
CHAT = "/v1/chat/completions"


def settings(upstream: FakeUpstream, **server: Any) -> dict[str, Any]:
    timeouts = {"connect_s": 1.0, "first_byte_s": 0.8, "total_s": 1.6}
    model = {"url": upstream.base_url, "timeouts": timeouts, "continuation": "prefill"}
    return {"models": {"qwen3": model}, "server": {"port": 0, **server}}


async def error_of(response: Any) -> dict[str, Any]:
    body = orjson.loads(await response.read())
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return body["error"]


def request(**fields: Any) -> bytes:
    return orjson.dumps({"model": "auto", "messages": [{"role": "user", "content": "Hi"}], **fields})


MALFORMED = [
    (b"", "not valid JSON"),
    (b"{", "not valid JSON"),
    (b"not json", "not valid JSON"),
    (b'{"model": "auto", "messages": [{"role": "user", "content": "\xff\xfe"}]}', "not valid JSON"),
    (b"[]", "must be a JSON object"),
    (b'"text"', "must be a JSON object"),
    (b"null", "must be a JSON object"),
    (request(model=None), "`model`"),
    (request(model=5), "`model`"),
    (request(model=""), "`model`"),
    (request(model="x" * 5000), "`model`"),
    (request(messages=[]), "`messages`"),
    (request(messages="Hi"), "`messages`"),
    (request(messages=[5]), "`messages[0]`"),
    (request(messages=[{}]), "`messages[0].role`"),
    (request(messages=[{"role": "user", "content": 5}]), "`messages[0].content`"),
    (request(messages=[{"role": "user", "content": [5]}]), "`messages[0].content[0]`"),
    (request(stream="yes"), "`stream`"),
    (request(stream_options=[]), "`stream_options`"),
    (request(max_tokens=0), "`max_tokens`"),
    (request(max_tokens="10"), "`max_tokens`"),
    (request(max_completion_tokens=1.5), "`max_completion_tokens`"),
    (request(n="two"), "`n`"),
    (request(reasoning_effort="very"), "`reasoning_effort`"),
    (request(reasoning_effort=3), "`reasoning_effort`"),
    (request(reasoning=[]), "`reasoning`"),
    (request(chat_template_kwargs=[]), "`chat_template_kwargs`"),
    (request(chat_template_kwargs={"enable_thinking": "no"}), "enable_thinking"),
    (request(reasoning_effort="high", chat_template_kwargs={"enable_thinking": False}), "contradict"),
    (request(model="qwen3@on", reasoning_effort="none"), "send one of them"),
]


@pytest.mark.parametrize(("body", "said"), MALFORMED)
async def test_a_malformed_request_is_a_400_that_names_the_field(
    gateway: GatewayFactory, body: bytes, said: str
) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream)) as g:
        response = await g.post(CHAT, body)
        assert response.status == 400
        assert said in (await error_of(response))["message"]
        record = await g.recorded()
        assert (record.status, record.error_code, record.http_status) == ("refused", "invalid_request", 400)
        assert record.decision_id == response.headers["x-thinkroute-decision"]
        assert not upstream.requests


@pytest.mark.parametrize(
    "name",
    ["gpt-99", "qwen", "qwen3@hgih", "qwen3@budget=x", "@", "auto@", "x" * 256, "qwen3@budget=" + "9" * 200],
)
async def test_an_unknown_model_is_a_404_with_a_suggestion(gateway: GatewayFactory, name: str) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream)) as g:
        response = await g.chat(model=name)
        error = await error_of(response)
        assert (response.status, error["code"], error["param"]) == (404, "model_not_found", "model")
        assert len(error["message"]) < 1000
        assert (await g.recorded()).error_code == "model_not_found"


async def test_several_choices_are_refused_not_dropped(gateway: GatewayFactory) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream)) as g:
        response = await g.chat(n=2)
        assert (response.status, (await error_of(response))["param"]) == (422, "n")


async def test_a_10_mb_body_is_a_413_before_it_is_read(gateway: GatewayFactory) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream)) as g:
        response = await g.request("POST", CHAT, data=io.BytesIO(b" " * 10_000_000))
        assert (response.status, (await error_of(response))["code"]) == (413, "request_too_large")
        assert (await g.recorded()).error_code == "request_too_large"


async def test_a_body_of_undeclared_length_is_cut_off_at_the_limit(gateway: GatewayFactory) -> None:

    async def drip() -> Any:
        for _ in range(100):
            yield b" " * 100

    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream, max_body_bytes=1000)) as g:
        assert (await g.request("POST", CHAT, data=drip())).status == 413


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
async def test_nesting_1000_deep_is_a_400_before_parsing(gateway: GatewayFactory, opening: bytes) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream)) as g:
        closing = b"]" if opening == b"[" else b"}"
        deep = opening * 1000 + b"1" + closing * 1000
        response = await g.post(CHAT, b'{"model": "auto", "messages": ' + deep + b"}")
        assert response.status == 400
        assert "nests deeper" in (await error_of(response))["message"]


async def test_compressed_bodies_are_refused(gateway: GatewayFactory) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream)) as g:
        response = await g.post(CHAT, b"\x1f\x8b", {"Content-Encoding": "gzip"})
        assert response.status == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", CHAT, 405), ("POST", "/v1/models", 405), ("GET", "/nothing", 404), ("DELETE", "/healthz", 405),
     ("GET", "/v1/decisions/dec_none", 404), ("GET", "/v1/models/none", 404), ("POST", "/v1/decisions/x", 405)],
)  # fmt: skip
async def test_wrong_paths_and_methods_answer_in_openai_s_shape(
    gateway: GatewayFactory, method: str, path: str, status: int
) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream)) as g:
        response = await g.request(method, path)
        assert response.status == status
        await error_of(response)


@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", "Basic key", "key", "Bearer ", "Bearer key-12345 extra"]
)
async def test_a_missing_or_wrong_key_is_a_401(gateway: GatewayFactory, header: str | None) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream, api_keys=["key-12345"])) as g:
        headers = {} if header is None else {"Authorization": header}
        for path in (CHAT, "/v1/models", "/metrics", "/v1/decisions/x"):
            method = "POST" if path == CHAT else "GET"
            response = await g.request(method, path, headers=headers)
            assert response.status == 401
            await error_of(response)
        assert (await g.get("/healthz")).status == 200
        assert not list(g.runtime.store.iter_records()), "strangers cannot fill the log"


UPSTREAM_FAULTS: list[tuple[Fault, int, str]] = [
    (Reset(), 502, "upstream_unavailable"),
    (HangBeforeHeaders(), 504, "upstream_timeout"),
    (Garbage(), 502, "upstream_protocol_error"),
    (Garbage(b"{]", "application/json"), 502, "upstream_protocol_error"),
    (Garbage(b'{"choices": 5}', "application/json"), 502, "upstream_protocol_error"),
    (Status(500), 502, "upstream_rejected"),
    (Status(503), 503, "upstream_rejected"),
    (Status(429, retry_after="7"), 429, "upstream_rejected"),
    (Status(400), 400, "upstream_rejected"),
    (Status(401), 502, "upstream_rejected"),
    (Status(500, body=b"<html>oops"), 502, "upstream_rejected"),
]


@pytest.mark.parametrize(("fault", "status", "code"), UPSTREAM_FAULTS)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_upstream_failing_before_the_first_token_has_its_own_status(
    gateway: GatewayFactory, fault: Fault, status: int, code: str, stream: bool
) -> None:
    async with FakeUpstream(REPLY, faults=[fault, fault]) as upstream, gateway(settings(upstream)) as g:
        response = await g.chat(model="qwen3@off", stream=stream)
        error = await error_of(response)
        assert (response.status, error["code"]) == (status, code)
        if isinstance(fault, Status) and fault.retry_after:
            assert response.headers["retry-after"] == fault.retry_after
        record = await g.recorded()
        assert (record.status, record.error_code, record.http_status) == ("error", code, status)
        assert record.legs[0].error == code


async def test_a_refused_connection_is_a_502(gateway: GatewayFactory) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream)) as g:
        await upstream.refuse()
        response = await g.chat(model="qwen3@off")
        assert (response.status, (await error_of(response))["code"]) == (502, "upstream_unavailable")


MID_STREAM: list[tuple[Fault, str]] = [
    (Break("mid_event"), "upstream_interrupted"),
    (Break("mid_utf8"), "upstream_interrupted"),
    (Break("before_finish"), "upstream_interrupted"),
    (Break("before_finish", clean=True), "upstream_interrupted"),
    (HangAfterChunks(4), "upstream_timeout"),
    (ErrorEvent(4), "upstream_interrupted"),
]


@pytest.mark.parametrize(("fault", "code"), MID_STREAM)
async def test_an_upstream_dying_mid_stream_ends_with_an_error_event(
    gateway: GatewayFactory, fault: Fault, code: str
) -> None:
    async with FakeUpstream(REPLY, faults=[fault]) as upstream, gateway(settings(upstream)) as g:
        response = await g.chat(model="qwen3@off", stream=True)
        assert response.status == 200
        events = await sse(response)
        assert text_of(events)
        assert events[-1] == "[DONE]"
        assert events[-2]["error"]["code"] == code, events[-2]
        assert not [event for event in events[:-2] if event["choices"][0]["finish_reason"]], (
            "no false success"
        )
        record = await g.recorded()
        assert (record.status, record.error_code) == ("error", code)
        assert record.legs[0].completion_tokens > 0, "what was produced is accounted for"
        assert record.legs[0].provenance == "estimated"


@pytest.mark.parametrize("place", ["before_usage", "before_terminator"])
async def test_an_answer_that_was_complete_is_not_an_error(gateway: GatewayFactory, place: Any) -> None:
    async with FakeUpstream(REPLY, faults=[Break(place)]) as upstream, gateway(settings(upstream)) as g:
        events = await sse(await g.chat(model="qwen3@off", stream=True))
        assert text_of(events) == REPLY.answer
        assert events[-2]["choices"][0]["finish_reason"] == "stop"


async def test_the_second_leg_failing_is_reported_too(gateway: GatewayFactory) -> None:
    async with (
        FakeUpstream(REPLY, faults=[None, Reset(), Reset()]) as upstream,
        gateway(settings(upstream)) as g,
    ):
        events = await sse(await g.chat(model="qwen3@budget=1", stream=True))
        assert events[-2]["error"]["code"] == "upstream_unavailable"
        record = await g.recorded()
        assert [leg.error for leg in record.legs] == [None, "upstream_unavailable"]


async def leave(g: Gateway, *, stream: bool, model: str, after_bytes: int) -> None:
    """Post over a raw socket, read a little, and close."""
    host, port = g.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = request(model=model, stream=stream)
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    if after_bytes:
        await reader.readexactly(after_bytes)
    else:
        await asyncio.sleep(0.15)
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    writer.close()


@pytest.mark.parametrize(("stream", "after_bytes"), [(True, 600), (True, 0), (False, 0)])
@pytest.mark.parametrize("model", ["qwen3@off", "qwen3@budget=1"])
async def test_a_caller_who_leaves_stops_the_upstream_within_a_second(
    gateway: GatewayFactory, stream: bool, after_bytes: int, model: str
) -> None:
    slow = Reply("word " * 400, reasoning="hm " * 400)
    faults = [] if stream else [HangBeforeHeaders()]
    async with FakeUpstream(slow, token_delay_s=0.02, faults=faults) as upstream:
        config = settings(upstream)
        config["models"]["qwen3"]["timeouts"] = {}
        async with gateway(config) as g:
            await leave(g, stream=stream, model=model, after_bytes=after_bytes)
            left_at = time.monotonic()
            record = await g.recorded(within_s=1.0)
            assert (record.status, record.error_code) == ("cancelled", "caller_left")
            assert record.legs[-1].error == "cancelled"
            assert await upstream.disconnected(within_s=1.0)
            assert time.monotonic() - left_at < 1.0
            assert g.runtime.in_flight == 0
            assert (await g.chat(model="qwen3@off", max_tokens=2)).status == 200, "the gateway still serves"


async def test_too_many_at_once_are_shed_with_503(gateway: GatewayFactory) -> None:
    async with FakeUpstream(Reply("word " * 20), token_delay_s=0.02) as upstream:
        config = settings(upstream, max_concurrency=2)
        async with gateway(config) as g:
            responses = await asyncio.gather(*(g.chat(model="qwen3@off", stream=True) for _ in range(6)))
            statuses = sorted(response.status for response in responses)
            assert statuses == [200, 200, 503, 503, 503, 503]
            await asyncio.gather(*(response.read() for response in responses))
            shed = next(response for response in responses if response.status == 503)
            assert shed.headers["retry-after"] == "1"
            assert (await error_of(shed))["code"] == "gateway_overloaded"


async def test_secrets_and_questions_stay_out_of_the_log(
    gateway: GatewayFactory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    async with FakeUpstream(REPLY, faults=[None, Status(500), Reset(), Garbage()]) as upstream:
        config = settings(upstream, api_keys=["canary-caller"])
        config["models"]["qwen3"]["api_key"] = "canary-upstream"
        async with gateway(config) as g:
            for _ in range(4):
                await g.chat(
                    {"Authorization": "Bearer canary-caller"},
                    messages=[{"role": "user", "content": "canary-text"}],
                )
            records = list(g.runtime.store.iter_records())
    assert "canary" not in caplog.text
    assert "canary" not in repr(records)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Origin": "https://evil.example"},
        {"Host": "10.0.0.1:80"},
        {"Origin": "null"},
        {"Origin": "file://"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
async def test_without_a_key_web_pages_of_other_sites_are_refused(
    gateway: GatewayFactory, headers: dict[str, str]
) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream)) as g:
        response = await g.chat(headers)
        assert (response.status, (await error_of(response))["code"]) == (403, "foreign_origin")
        assert not upstream.requests
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream, api_keys=["key-12345"])) as g:
        assert (await g.chat({**headers, "Authorization": "Bearer key-12345"})).status == 200


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1", "http://[::1]:8080"])
async def test_pages_of_this_machine_may_ask(gateway: GatewayFactory, origin: str) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream)) as g:
        assert (await g.chat({"Origin": origin})).status == 200


async def test_callers_still_sending_do_not_count_as_being_answered(gateway: GatewayFactory) -> None:
    async with FakeUpstream(REPLY) as upstream, gateway(settings(upstream, max_concurrency=1)) as g:
        host, port = g.url.removeprefix("http://").split(":")
        stalled = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
        for _, writer in stalled:
            writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50\r\n\r\n{{".encode())
            await writer.drain()
        await asyncio.sleep(0.05)
        assert (await g.chat()).status == 200
        for _, writer in stalled:
            writer.close()
