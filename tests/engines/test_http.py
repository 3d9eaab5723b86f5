"""The HTTP engine against a real server that answers, lags, refuses, breaks off and talks nonsense."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from thinkroute.catalog import Model, family_named
from thinkroute.engines.http import HttpEngine, list_models
from thinkroute.errors import (
    EngineError,
    EngineInterrupted,
    EngineProtocolError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
    UnknownModel,
)
from thinkroute.programs import build
from thinkroute.programs.driver import Prompt, Run
from thinkroute.programs.protocol import Call, Chunk, Segment, ThinkingFormat
from thinkroute.testing import (
    Break,
    ErrorEvent,
    FakeUpstream,
    Fault,
    Garbage,
    HangAfterChunks,
    HangBeforeHeaders,
    Quirks,
    Reply,
    Reset,
    Status,
)
from thinkroute.types import Arm, Effort

QUESTION = [{"role": "user", "content": "what is 2+2?"}]
THINKER = Reply(
    "The answer is four – naïvely.", reasoning="Let me see. Two and two. That makes four I think."
)
CUT_STREAMS = ["after_role", "mid_event", "mid_utf8", "before_finish", 0, 1, 40]


@asynccontextmanager
async def running(upstream: FakeUpstream, **fields: Any) -> AsyncGenerator[HttpEngine]:
    engine = HttpEngine({"m": model_of(upstream, **fields)})
    await engine.start()
    try:
        yield engine
    finally:
        await engine.aclose()


def model_of(upstream: FakeUpstream, **fields: Any) -> Model:
    base = Model("m", "fake", "http", family_named("qwen3"), base_url=upstream.base_url)
    return replace(base, **fields)


def call(**fields: Any) -> Call:
    return replace(Call("m", QUESTION), **fields)


async def collect(engine: HttpEngine, a_call: Call) -> tuple[list[Chunk], Segment]:
    items = [item async for item in engine.generate(a_call)]
    assert isinstance(items[-1], Segment)
    return [item for item in items[:-1] if isinstance(item, Chunk)], items[-1]


def text_of(chunks: Sequence[Chunk], channel: str) -> str:
    return "".join(chunk.text for chunk in chunks if chunk.channel == channel)


async def failure_of(
    fault: Fault | None, *, stream: bool = True, **fields: Any
) -> tuple[list[Chunk], EngineError]:
    """What arrives, and the error that ends it, when the server plays a fault."""
    chunks: list[Chunk] = []
    async with FakeUpstream(THINKER, faults=[fault]) as upstream, running(upstream, **fields) as engine:
        try:
            async for item in engine.generate(call(stream=stream)):
                assert isinstance(item, Chunk), "the reply passed for a whole one"
                chunks.append(item)
        except EngineError as error:
            return chunks, error
    pytest.fail("the reply ended without a segment and without an error")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("field", ["reasoning", "reasoning_content", "inline"])
async def test_thinking_and_answer_come_apart_wherever_the_server_puts_them(field: Any, stream: bool) -> None:
    async with (
        FakeUpstream(THINKER, quirks=Quirks(reasoning_field=field)) as upstream,
        running(upstream) as engine,
    ):
        chunks, segment = await collect(engine, call(stream=stream))
    assert text_of(chunks, "reasoning") == THINKER.reasoning
    assert text_of(chunks, "answer") == THINKER.answer
    assert segment.text == f"<think>\n{THINKER.reasoning}\n</think>\n\n{THINKER.answer}"
    assert (segment.finish, segment.thinking_closed) == ("stop", True)
    assert segment.usage.provenance == "reported"
    assert (segment.usage.completion_tokens, segment.usage.reasoning_tokens) == (19, 13)


@pytest.mark.parametrize("stream", [True, False])
async def test_effort_off_switches_thinking_off(stream: bool) -> None:
    async with FakeUpstream(THINKER) as upstream, running(upstream) as engine:
        chunks, segment = await collect(engine, call(effort=Effort("off"), stream=stream))
    assert (text_of(chunks, "reasoning"), segment.text) == ("", THINKER.answer)
    assert segment.usage.reasoning_tokens == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_counts_that_the_server_does_not_report_are_estimated_and_say_so(stream: bool) -> None:
    async with (
        FakeUpstream(THINKER, quirks=Quirks(reports_usage=False)) as upstream,
        running(upstream) as engine,
    ):
        _, segment = await collect(engine, call(stream=stream))
    assert segment.usage.provenance == "estimated"
    assert segment.usage.reasoning_tokens == -(-len(THINKER.reasoning) // 4)
    assert segment.usage.prompt_tokens == 3


async def test_chunks_arrive_as_they_are_made() -> None:
    async with FakeUpstream(THINKER, token_delay_s=0.02) as upstream, running(upstream) as engine:
        began = time.monotonic()
        arrivals = [time.monotonic() - began async for _ in engine.generate(call())]
    assert arrivals[0] < arrivals[-1] / 2


@pytest.mark.parametrize("quirks", [Quirks(), Quirks(mislabels_answer=True), Quirks(echoes_prefill=True)])
@pytest.mark.parametrize("continuation", ["prefill", "completions"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_two_call_budget_cuts_thinking_and_still_answers(
    continuation: Any, quirks: Quirks, stream: bool
) -> None:
    thinking = ThinkingFormat()
    async with (
        FakeUpstream(THINKER, quirks=quirks) as upstream,
        running(upstream, continuation=continuation) as engine,
    ):
        program = build(Arm("budgeted", ("m",), Effort("on", 6)), thinking, None)
        run = Run(program, Prompt(QUESTION, stream=stream), {"m": engine}, {})
        deltas = [delta async for delta in run.events()]
    answer = "".join(delta.text for delta in deltas if delta.channel == "answer")
    assert answer == THINKER.answer
    assert "".join(segment.text for segment in run.segments).startswith("<think>\nLet me see. Two and ")
    assert [segment.usage.reasoning_tokens for segment in run.segments] == [6, 0, 0]
    assert run.finish == "stop"


async def test_a_run_on_answer_is_continued_where_it_was_cut() -> None:
    """The server cannot stop at the close tag, so the first call may end inside the answer."""
    async with FakeUpstream(THINKER) as upstream, running(upstream, continuation="prefill") as engine:
        program = build(Arm("budgeted", ("m",), Effort("on", 15)), ThinkingFormat(), None)
        run = Run(program, Prompt(QUESTION), {"m": engine}, {})
        deltas = [delta async for delta in run.events()]
    assert "".join(delta.text for delta in deltas if delta.channel == "answer") == THINKER.answer
    assert [segment.owner for segment in run.segments] == ["m", "m"]


@pytest.mark.parametrize("stream", [True, False])
async def test_fields_we_do_not_own_travel_to_the_caller(stream: bool) -> None:
    tool = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    reply = Reply("", tool_calls=(tool,))
    async with FakeUpstream(reply) as upstream, running(upstream) as engine:
        chunks, segment = await collect(engine, call(stream=stream))
    sent = [chunk.upstream["message"]["tool_calls"][0] for chunk in chunks if chunk.upstream.get("message")]
    assert sent == [{"index": 0, **tool} if stream else tool]
    assert segment.upstream["body"] == {"system_fingerprint": "fp_fake"}
    assert segment.finish == "tool_calls"


async def test_log_probabilities_reach_the_caller_raw_and_the_program_parsed() -> None:
    async with FakeUpstream("Four it is.") as upstream, running(upstream) as engine:
        chunks, segment = await collect(engine, call(options={"logprobs": True}))
    assert segment.logprobs is not None
    assert [(token.token, token.logprob) for token in segment.logprobs] == [
        ("Four ", -0.25),
        ("it ", -0.25),
        ("is.", -0.25),
    ]
    assert chunks[0].upstream["choice"]["logprobs"]["content"][0]["bytes"] == list(b"Four ")


async def test_the_key_is_sent_and_unknown_fields_pass_through() -> None:
    async with FakeUpstream() as upstream, running(upstream, api_key="sk-canary") as engine:
        await collect(engine, call(options={"cache_salt": "s", "temperature": 0.5}))
    [request] = upstream.requests
    assert request.headers["Authorization"] == "Bearer sk-canary"
    assert (request.body["cache_salt"], request.body["temperature"]) == ("s", 0.5)


async def test_without_a_key_no_authorization_is_sent() -> None:
    async with FakeUpstream() as upstream, running(upstream) as engine:
        await collect(engine, call())
    assert "Authorization" not in upstream.requests[0].headers


@pytest.mark.parametrize("stream", [True, False])
async def test_connections_are_used_again(stream: bool) -> None:
    async with FakeUpstream() as upstream, running(upstream) as engine:
        for _ in range(5):
            await collect(engine, call(stream=stream))
        assert upstream.connections == 1


async def test_a_pooled_connection_that_died_is_replaced_once() -> None:
    async with FakeUpstream(faults=[None, Reset()]) as upstream, running(upstream) as engine:
        await collect(engine, call())
        _, segment = await collect(engine, call())
        assert (segment.text, upstream.connections) == ("Hello there.", 2)


async def test_a_server_that_closes_after_every_stream_is_no_failure() -> None:
    async with (
        FakeUpstream(quirks=Quirks(closes_after_stream=True)) as upstream,
        running(upstream) as engine,
    ):
        for _ in range(20):
            await collect(engine, call())


async def test_a_pooled_connection_is_not_replaced_twice() -> None:
    async with FakeUpstream(faults=[None, Reset(), Reset()]) as upstream, running(upstream) as engine:
        await collect(engine, call())
        with pytest.raises(EngineUnavailable):
            await collect(engine, call())
        assert len(upstream.requests) == 3


async def test_a_fresh_connection_that_dies_is_not_tried_again() -> None:
    async with FakeUpstream(faults=[Reset()]) as upstream, running(upstream) as engine:
        with pytest.raises(EngineUnavailable, match=r"cannot reach http://127\.0\.0\.1"):
            await collect(engine, call())
        assert len(upstream.requests) == 1


async def test_a_refused_connection_is_unavailable() -> None:
    async with FakeUpstream() as upstream, running(upstream) as engine:
        await upstream.refuse()
        with pytest.raises(EngineUnavailable, match="cannot reach"):
            await collect(engine, call())


async def test_a_name_that_does_not_resolve_is_unavailable() -> None:
    async with FakeUpstream() as upstream, running(upstream, base_url="http://nowhere.invalid/v1") as engine:
        with pytest.raises(EngineUnavailable, match=r"nowhere\.invalid"):
            await collect(engine, call())


async def test_silence_before_the_headers_is_a_first_byte_timeout() -> None:
    _, error = await failure_of(HangBeforeHeaders(), first_byte_timeout_s=0.1)
    assert isinstance(error, EngineTimeout)
    assert "did not send a first byte within 0.1 s" in error.message


async def test_silence_after_the_headers_is_a_first_byte_timeout_too() -> None:
    _, error = await failure_of(HangAfterChunks(0), first_byte_timeout_s=0.1)
    assert isinstance(error, EngineTimeout)
    assert "first byte within 0.1 s" in error.message


async def test_silence_in_the_middle_is_a_total_timeout() -> None:
    chunks, error = await failure_of(HangAfterChunks(4), total_timeout_s=0.3)
    assert isinstance(error, EngineTimeout)
    assert "did not complete its answer within 0.3 s" in error.message
    assert text_of(chunks, "reasoning") == "Let me see. "


async def test_a_connection_that_is_not_accepted_is_a_connect_timeout() -> None:
    """A full backlog: the listening socket exists, nobody accepts, and the kernel stops answering."""
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0, backlog=1)
    server.sockets[0].setblocking(False)
    address = server.sockets[0].getsockname()[:2]
    asyncio.get_running_loop().remove_reader(server.sockets[0].fileno())
    fillers = [asyncio.create_task(asyncio.open_connection(*address)) for _ in range(4)]
    await asyncio.sleep(0.05)
    upstream = FakeUpstream()
    upstream.base_url = f"http://{address[0]}:{address[1]}/v1"
    try:
        async with running(upstream, connect_timeout_s=0.2) as engine:
            with pytest.raises(EngineTimeout, match=r"did not accept a connection within 0\.2 s"):
                await collect(engine, call())
    finally:
        for filler in fillers:
            filler.cancel()
        for filled in await asyncio.gather(*fillers, return_exceptions=True):
            if not isinstance(filled, BaseException):
                filled[1].close()
        server.close()


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_status_passes_with_what_the_upstream_said(stream: bool) -> None:
    _, error = await failure_of(Status(429, "slow down", "rate_limit_error", retry_after="7"), stream=stream)
    assert isinstance(error, EngineRejected)
    assert (error.status, error.retry_after) == (429, "7")
    assert error.body is not None
    assert error.body["message"] == "slow down"
    assert error.message == "model 'm': the upstream answered 429: slow down"


async def test_an_error_page_passes_with_its_status() -> None:
    _, error = await failure_of(Status(503, body=b"<html>" + b"x" * 200_000))
    assert isinstance(error, EngineRejected)
    assert (error.status, error.body) == (503, None)


async def test_a_server_that_refuses_unknown_fields_is_quoted() -> None:
    async with (
        FakeUpstream(quirks=Quirks(rejects_unknown_fields=True)) as upstream,
        running(upstream) as engine,
    ):
        with pytest.raises(EngineRejected, match="chat_template_kwargs") as raised:
            await collect(engine, call(effort=Effort("off")))
    assert raised.value.status == 422


async def test_our_key_is_not_told_to_the_caller_when_the_server_quotes_it() -> None:
    fault = Status(401, "Incorrect API key provided: sk-canary")
    _, error = await failure_of(fault, api_key="sk-canary")
    assert isinstance(error, EngineRejected)
    assert "canary" not in error.message
    assert "canary" not in str(error.body)


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("place", CUT_STREAMS)
async def test_a_stream_cut_before_its_finish_reason_is_an_error_never_a_short_answer(
    place: Any, clean: bool
) -> None:
    chunks, error = await failure_of(Break(place, clean))
    assert isinstance(error, EngineInterrupted)
    whole = THINKER.reasoning + THINKER.answer
    assert whole.startswith(text_of(chunks, "reasoning") + text_of(chunks, "answer"))


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("place", ["before_usage", "before_terminator"])
async def test_a_stream_cut_after_its_finish_reason_is_whole(place: Any, clean: bool) -> None:
    async with FakeUpstream(THINKER, faults=[Break(place, clean)]) as upstream, running(upstream) as engine:
        chunks, segment = await collect(engine, call())
    assert text_of(chunks, "answer") == THINKER.answer
    assert segment.usage.provenance == ("estimated" if place == "before_usage" else "reported")


@pytest.mark.parametrize("offset", range(0, 2000, 97))
async def test_a_stream_cut_at_any_byte_is_whole_or_an_error(offset: int) -> None:
    async with (
        FakeUpstream("Ünïcödé – wörds.", faults=[Break(offset)]) as upstream,
        running(upstream) as engine,
    ):
        try:
            chunks, segment = await collect(engine, call())
        except EngineInterrupted:
            return
        assert text_of(chunks, "answer") == segment.text == "Ünïcödé – wörds."


@pytest.mark.parametrize("clean", [False, True])
async def test_a_body_cut_short_is_an_error(clean: bool) -> None:
    _, error = await failure_of(Break(60, clean), stream=False)
    assert isinstance(error, EngineProtocolError if clean else EngineInterrupted)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "garbage",
    [
        Garbage(),
        Garbage(b"", "text/event-stream"),
        Garbage(b"hello", "text/event-stream"),
        Garbage(b"data: hello\n\n", "text/event-stream"),
        Garbage(b"data: {}\n\n", "text/event-stream"),
        Garbage(b"data: [1]\n\n", "text/event-stream"),
        Garbage(b'data: {"choices": [7]}\n\n', "text/event-stream"),
        Garbage(b'data: {"choices": [{"delta": {"content": 5}}]}\n\n', "text/event-stream"),
        Garbage(b"not json", "application/json"),
        Garbage(b'{"choices": []}', "application/json"),
        Garbage(b'{"choices": [{"message": []}]}', "application/json"),
        Garbage(b"", "application/json"),
        Garbage(b"\xff\xfe\x00", "application/octet-stream"),
    ],
)
async def test_garbage_is_an_engine_error_that_says_so(garbage: Garbage, stream: bool) -> None:
    _, error = await failure_of(garbage, stream=stream)
    assert isinstance(error, EngineProtocolError | EngineInterrupted)


async def test_what_is_not_http_is_a_protocol_error() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as server:
        upstream = FakeUpstream()
        upstream.base_url = "http://{}:{}/v1".format(*server.sockets[0].getsockname()[:2])
        async with running(upstream) as engine:
            with pytest.raises(EngineProtocolError, match="does not speak HTTP"):
                await collect(engine, call())


async def test_an_endless_body_is_refused_at_the_limit() -> None:
    huge = Garbage(b"{" + b" " * (17 * 1024 * 1024), "application/json")
    _, error = await failure_of(huge, stream=False)
    assert isinstance(error, EngineProtocolError)
    assert "over the limit of 16777216 bytes" in error.message


async def test_an_endless_line_is_refused_at_the_limit() -> None:
    huge = Garbage(b"data: " + b"x" * (17 * 1024 * 1024), "text/event-stream")
    _, error = await failure_of(huge)
    assert isinstance(error, EngineProtocolError)
    assert "line over the limit of 16777216 bytes" in error.message


async def test_an_error_event_ends_the_stream_with_what_came_before_it() -> None:
    chunks, error = await failure_of(ErrorEvent(chunks=3))
    assert isinstance(error, EngineInterrupted)
    assert error.message.endswith("the model crashed")
    assert text_of(chunks, "reasoning") == "Let me "


async def test_an_error_event_with_a_status_is_a_rejection() -> None:
    _, error = await failure_of(ErrorEvent(chunks=0, code=400))
    assert isinstance(error, EngineRejected)
    assert error.status == 400


async def test_closing_a_stream_early_closes_the_connection_at_once() -> None:
    async with FakeUpstream(THINKER, token_delay_s=0.05) as upstream, running(upstream) as engine:
        async with aclosing(engine.generate(call())) as items:
            await anext(items)
        assert await upstream.disconnected(within_s=1.0)


@pytest.mark.parametrize("stream", [True, False])
async def test_cancelling_while_waiting_closes_the_connection_at_once(stream: bool) -> None:
    async with FakeUpstream(faults=[HangBeforeHeaders()]) as upstream, running(upstream) as engine:
        task = asyncio.create_task(collect(engine, call(stream=stream)))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await upstream.disconnected(within_s=1.0)


async def test_cancelling_in_the_middle_of_a_stream_closes_the_connection_at_once() -> None:
    async with FakeUpstream(THINKER, faults=[HangAfterChunks(3)]) as upstream, running(upstream) as engine:
        task = asyncio.create_task(collect(engine, call()))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await upstream.disconnected(within_s=1.0)


@pytest.mark.parametrize("fault", [HangBeforeHeaders(), HangAfterChunks(0), HangAfterChunks(3)])
async def test_closing_the_engine_ends_generations_with_an_error(fault: Fault) -> None:
    async with FakeUpstream(THINKER, faults=[fault]) as upstream, running(upstream) as engine:
        task = asyncio.create_task(collect(engine, call()))
        await asyncio.sleep(0.1)
        await engine.aclose()
        with pytest.raises(EngineError):
            await task


async def test_an_unknown_model_is_named() -> None:
    async with FakeUpstream() as upstream, running(upstream) as engine:
        with pytest.raises(UnknownModel, match="'other'"):
            await collect(engine, Call("other", QUESTION))


async def test_the_models_of_a_server_are_listed() -> None:
    async with FakeUpstream(models=["a", "b"]) as upstream:
        assert await list_models(upstream.base_url, None, timeout_s=1) == ["a", "b"]


async def test_listing_the_models_of_nothing_says_where_it_looked() -> None:
    async with FakeUpstream() as upstream:
        await upstream.refuse()
        with pytest.raises(EngineUnavailable, match=r"cannot reach http://127\.0\.0\.1"):
            await list_models(upstream.base_url, "sk-canary", timeout_s=1)


async def test_a_server_that_never_answers_the_listing_times_out() -> None:
    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        url = "http://{}:{}/v1".format(*server.sockets[0].getsockname()[:2])
        with pytest.raises(EngineTimeout, match=r"within 0\.1 s"):
            await list_models(url, None, timeout_s=0.1)
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        ("401 Unauthorized", b'{"error": {"message": "bad key sk-canary"}}', "answered 401: bad key [*]{3}$"),
        ("200 OK", b'{"models": []}', "did not answer with a list of models"),
        ("200 OK", b"<html>", "did not answer with a list of models"),
    ],
)
async def test_a_listing_that_is_refused_or_nonsense_says_so(status: str, body: bytes, expected: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = "http://{}:{}/v1".format(*server.sockets[0].getsockname()[:2])
        with pytest.raises(EngineError, match=expected):
            await list_models(url, "sk-canary", timeout_s=1)
