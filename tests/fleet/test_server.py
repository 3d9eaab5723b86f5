"""The members behind their own server: raw continuations, equal to the engine's, in both ways of answering."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp.test_utils import TestServer

from thinkroute.engines.embedded import EmbeddedEngine
from thinkroute.fleet import shipped
from thinkroute.fleet.server import application
from thinkroute.fleet.tasks import EXAMPLES
from thinkroute.programs.protocol import Call, Segment
from thinkroute.types import Effort
from thinkroute.wire.fleet_prompt import last_turn, render

MESSAGES = [{"role": "user", "content": EXAMPLES[0]}]


@asynccontextmanager
async def served() -> AsyncGenerator[tuple[EmbeddedEngine, TestServer]]:
    engine = EmbeddedEngine({"teacher": shipped.directory("teacher")})
    server = TestServer(application(engine, ["teacher"]))
    await server.start_server()
    try:
        yield engine, server
    finally:
        await server.close()


async def post(server: TestServer, **fields: Any) -> tuple[int, bytes]:
    body = {"model": "thinkroute-fleet-teacher", **fields}
    async with (
        aiohttp.ClientSession() as session,
        session.post(server.make_url("/v1/completions"), data=orjson.dumps(body)) as response,
    ):
        return response.status, await response.read()


async def said(engine: EmbeddedEngine, effort: str) -> Segment:
    items = [item async for item in engine.generate(Call("teacher", MESSAGES, Effort.parse(effort)))]
    assert isinstance(items[-1], Segment)
    return items[-1]


@pytest.mark.parametrize("effort", ["on", "off"])
async def test_raw_completions_are_the_engines_message_tags_included(effort: str) -> None:
    async with served() as (engine, server):
        expected = await said(engine, effort)
        prompt = render(last_turn(MESSAGES), thinking=effort == "on")
        status, body = await post(server, prompt=prompt)
        assert status == 200
        choice = orjson.loads(body)["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == (expected.text, "stop")
        usage = orjson.loads(body)["usage"]
        assert usage["completion_tokens"] == expected.usage.completion_tokens
        assert usage["completion_tokens_details"]["reasoning_tokens"] == expected.usage.reasoning_tokens
        begun = expected.text[: len(expected.text) // 2].rpartition(" ")[0]
        status, body = await post(server, prompt=prompt + begun, max_tokens=3)
        rest = orjson.loads(body)["choices"][0]
        assert expected.text.startswith(begun + rest["text"])
        assert rest["finish_reason"] == "length"


async def test_a_stream_says_the_same_and_ends_with_usage() -> None:
    async with served() as (engine, server):
        expected = await said(engine, "on")
        prompt = render(last_turn(MESSAGES))
        _, body = await post(server, prompt=prompt, stream=True, stream_options={"include_usage": True})
    events = [line[6:] for line in body.decode().split("\n") if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    *texts, usage = [orjson.loads(event) for event in events[:-1]]
    assert "".join(event["choices"][0]["text"] for event in texts) == expected.text
    assert texts[-1]["choices"][0]["finish_reason"] == "stop"
    assert usage["usage"]["completion_tokens"] == expected.usage.completion_tokens


async def test_a_stop_string_cuts_the_text_wherever_it_lies() -> None:
    async with served() as (engine, server):
        expected = await said(engine, "on")
        _, body = await post(server, prompt=render(last_turn(MESSAGES)), stop=[" is"])
        assert orjson.loads(body)["choices"][0]["text"] == expected.text.partition(" is")[0]


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_come_in_parallel_lists(stream: bool) -> None:
    async with served() as (_, server):
        prompt = render(last_turn(MESSAGES))
        status, body = await post(server, prompt=prompt, max_tokens=2, logprobs=3, stream=stream)
    assert status == 200
    lines = [line.removeprefix("data: ") for line in body.decode().split("\n") if line.strip()]
    choices = [orjson.loads(line)["choices"][0] for line in lines if line != "[DONE]"]
    told = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    tokens = [token for each in told for token in each["tokens"]]
    assert "".join(tokens) == "".join(choice["text"] for choice in choices)
    for each in told:
        for token, logprob, likeliest in zip(*each.values(), strict=True):
            assert len(likeliest) == 3
            assert max(likeliest.values()) == likeliest[token] == logprob <= 0


@pytest.mark.parametrize(
    ("fields", "status", "names"),
    [
        ({"prompt": "hello"}, 400, "prompt"),
        ({"prompt": [1, 2]}, 400, "prompt"),
        ({"prompt": render(last_turn(MESSAGES)), "model": "gpt"}, 404, "model"),
        ({"prompt": render(last_turn(MESSAGES)), "n": 2}, 422, "n"),
        ({"prompt": render(last_turn(MESSAGES)), "logprobs": 99}, 400, "logprobs"),
        ({"prompt": render(last_turn(MESSAGES)), "best_of": 2}, 422, "best_of"),
        ({"prompt": render(last_turn(MESSAGES)), "stream": True, "temperature": 9}, 400, "temperature"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(
    fields: dict[str, Any], status: int, names: str
) -> None:
    async with served() as (_, server):
        got, body = await post(server, **fields)
        assert got == status
        assert orjson.loads(body)["error"]["param"] == names
