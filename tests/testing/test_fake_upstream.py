"""The fake upstream through the official client: what users' own tests would see."""

import asyncio

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from thinkroute.testing import Break, FakeUpstream, HangAfterChunks, Quirks, Reply, Reset, Status

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "what is 2+2?"}]
THINKER = Reply("The answer is four.", reasoning="Let me see.")


def client_of(upstream: FakeUpstream) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=upstream.base_url, api_key="sk-test", max_retries=0)


async def test_the_official_client_reads_its_answers() -> None:
    async with FakeUpstream(THINKER) as upstream, client_of(upstream) as client:
        completion = await client.chat.completions.create(model="fake", messages=QUESTION)
    message = completion.choices[0].message
    assert message.content == "The answer is four."
    assert message.model_dump()["reasoning_content"] == "Let me see."
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 9


async def test_the_official_client_reads_its_streams() -> None:
    async with FakeUpstream(THINKER) as upstream, client_of(upstream) as client:
        stream = await client.chat.completions.create(
            model="fake", messages=QUESTION, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == THINKER.answer
    )
    assert chunks[-1].usage is not None
    assert chunks[-2].choices[0].finish_reason == "stop"


async def test_it_honours_flags_caps_and_budgets() -> None:
    async with FakeUpstream(THINKER) as upstream, client_of(upstream) as client:
        off = await client.chat.completions.create(
            model="fake", messages=QUESTION, extra_body={"chat_template_kwargs": {"enable_thinking": False}}
        )
        capped = await client.chat.completions.create(model="fake", messages=QUESTION, max_tokens=3)
        budgeted = await client.chat.completions.create(
            model="fake", messages=QUESTION, extra_body={"thinking_token_budget": 1}
        )
    assert off.usage is not None
    assert off.usage.completion_tokens == 4
    assert (capped.choices[0].finish_reason, capped.choices[0].message.content) == ("length", "")
    assert budgeted.choices[0].message.model_dump()["reasoning_content"] == "Let"


async def test_it_remembers_what_it_received() -> None:
    async with FakeUpstream() as upstream, client_of(upstream) as client:
        await client.chat.completions.create(model="fake", messages=QUESTION, temperature=0.5)
    [request] = upstream.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["Authorization"] == "Bearer sk-test"
    assert request.body == {"model": "fake", "messages": QUESTION, "temperature": 0.5}
    assert (request.completed, request.disconnected_at_s) == (True, None)


async def test_faults_are_played_one_a_request_in_order() -> None:
    faults = [Status(500, "boom"), None, Reset(), Status(429, retry_after="1")]
    async with FakeUpstream(faults=faults) as upstream, client_of(upstream) as client:

        async def ask() -> str | None:
            return (
                (await client.chat.completions.create(model="fake", messages=QUESTION))
                .choices[0]
                .message.content
            )

        with pytest.raises(openai.InternalServerError, match="boom"):
            await ask()
        assert await ask() == "Hello there."
        with pytest.raises(openai.APIConnectionError):
            await ask()
        with pytest.raises(openai.RateLimitError) as refused:
            await ask()
        assert refused.value.response.headers["Retry-After"] == "1"
        assert await ask() == "Hello there."


async def test_a_client_that_leaves_is_noticed_with_the_time() -> None:
    async with FakeUpstream(faults=[HangAfterChunks(1)]) as upstream, client_of(upstream) as client:
        task = asyncio.create_task(
            client.chat.completions.create(model="fake", messages=QUESTION, stream=True)
        )
        stream = await task
        assert not await upstream.disconnected(within_s=0.05)
        await stream.close()
        assert await upstream.disconnected(within_s=1.0)
        [request] = upstream.requests
        assert request.disconnected_at_s is not None
        assert request.disconnected_at_s > request.received_at_s
        assert not request.completed


async def test_a_break_sends_exactly_the_bytes_before_it() -> None:
    async with FakeUpstream(faults=[Break(30, clean=True)]) as upstream, client_of(upstream) as client:
        reply = await client.chat.completions.with_raw_response.create(
            model="fake", messages=QUESTION, stream=True
        )
        assert len(await reply.http_response.aread()) == 30


async def test_unknown_fields_are_refused_by_servers_that_refuse_them() -> None:
    quirks = Quirks(rejects_unknown_fields=True)
    async with FakeUpstream(quirks=quirks) as upstream, client_of(upstream) as client:
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            await client.chat.completions.create(model="fake", messages=QUESTION, extra_body={"brand_new": 1})
        assert refused.value.response.json()["detail"][0]["loc"] == ["body", "brand_new"]
        await client.chat.completions.create(model="fake", messages=QUESTION)


async def test_models_are_listed() -> None:
    async with FakeUpstream(models=["a", "b"]) as upstream, client_of(upstream) as client:
        assert [model.id async for model in client.models.list()] == ["a", "b"]
