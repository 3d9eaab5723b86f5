"""Real servers behind the gateway: what a caller gets is what the member says, whoever computes it.

`make test-engines`. Every test runs against vLLM and against llama.cpp's server, as far as they are installed.
"""

from __future__ import annotations

import asyncio

import pytest
from tokenizers import Tokenizer

from tests.real_engines.client import RealEngine, Reply, deltas, logprobs_of
from tests.real_engines.reference import Expected, expected, questions
from thinkroute.catalog import family_of
from thinkroute.engines.http import list_models

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]

PROMPTS = 50
LONG = "Start with 4. First plus 3. Second times 9. Third minus 2. Fourth plus 6. What is the last digit?"


def assert_same(replies: list[Reply], embedded: list[Expected]) -> None:
    different = [
        f"{reply.thought!r} {reply.content!r}\n  embedded: {own.thought!r} {own.content!r}"
        for reply, own in zip(replies, embedded, strict=True)
        if (reply.thought.strip("\n"), reply.content) != (own.thought.strip("\n"), own.content)
    ]
    assert not different, f"{len(different)} of {len(replies)} differ:\n" + "\n".join(different[:5])


def assert_in_order(told: list[float], logprobs: list[float]) -> None:
    rest = iter(logprobs)
    for logprob in told:
        assert any(logprob == pytest.approx(own, abs=1e-3) for own in rest), f"{logprob} has no counterpart"


@pytest.mark.parametrize("effort", ["on", "off"])
async def test_greedy_answers_are_the_embedded_engines(engine: RealEngine, effort: str) -> None:
    asked = questions(PROMPTS)
    replies = await engine.ask_all(asked, model=f"teacher@{effort}")
    assert_same(replies, await expected(engine.member, asked, effort))
    assert all(bool(reply.thought) == (effort == "on") for reply in replies)


@pytest.mark.parametrize("model", ["teacher-two-call", "teacher-prefill"])
@pytest.mark.parametrize("budget", [8, 16])
async def test_a_two_call_budget_gives_the_embedded_engines_answers(
    engine: RealEngine, model: str, budget: int
) -> None:
    if model == "teacher-prefill" and engine.name == "llama.cpp":
        pytest.skip("llama.cpp writes an empty thinking block before a message that it continues")
    asked = questions(PROMPTS)
    replies = await engine.ask_all(asked, model=f"{model}@budget={budget}")
    assert_same(replies, await expected(engine.member, asked, f"budget={budget}"))
    assert all(reply.content for reply in replies)
    assert all(reply.thought_tokens <= budget for reply in replies)
    assert max(reply.thinkroute["legs"] for reply in replies) == 2


@pytest.mark.parametrize("budget", [4, 8, 16])
async def test_the_engines_own_budget_is_kept_in_one_call(engine: RealEngine, budget: int) -> None:
    asked = questions(10)
    replies = await engine.ask_all(asked, model=f"teacher@budget={budget}")
    unlimited = await expected(engine.member, asked, "on")
    for reply, own in zip(replies, unlimited, strict=True):
        assert reply.thinkroute["legs"] == 1
        assert reply.content, "there is always an answer"
        assert own.thought.startswith(reply.thought.strip("\n"))
    thoughts = [engine.tokens(f"\n{reply.thought}") for reply in replies]
    assert budget - 1 <= max(thoughts) <= budget
    if engine.name == "vllm":
        assert [reply.thought_tokens for reply in replies] == thoughts, "and it is counted"


async def test_thinking_is_switched_by_the_template_flag(engine: RealEngine) -> None:
    for thinking in (True, False):
        flags = {"enable_thinking": thinking}
        reply = await engine.ask(LONG, model="teacher", chat_template_kwargs=flags)
        assert bool(reply.thought) == (reply.thought_tokens > 0) == thinking
        assert reply.thinkroute["effort"] == ("on" if thinking else "off")


@pytest.mark.parametrize("model", ["teacher@on", "teacher@off", "teacher-two-call@budget=16"])
async def test_a_stream_says_the_same_piece_by_piece(engine: RealEngine, model: str) -> None:
    whole = await engine.ask(LONG, model=model)
    events = await engine.stream(LONG, model=model, stream_options={"include_usage": True})
    thought, content = deltas(events, "reasoning_content"), deltas(events, "content")
    assert ("".join(thought), "".join(content)) == (whole.thought, whole.content)
    assert len(content) > 1, "pieces, not one lump (a busy server joins some)"
    assert bool(thought) == (model != "teacher@off")
    [usage] = [event["usage"] for event in events if event.get("usage")]
    assert usage["completion_tokens"] == whole.generated_tokens
    finishes = [choice["finish_reason"] for event in events for choice in event["choices"]]
    assert [finish for finish in finishes if finish] == ["stop"]


@pytest.mark.parametrize(
    "model", ["teacher@on", "teacher@off", "teacher@budget=8", "teacher-two-call@budget=8"]
)
async def test_the_ledger_counts_what_was_generated(engine: RealEngine, model: str) -> None:
    """Counted again with the member's tokenizer, from the texts; the end token counts, forced text does not."""
    reply = await engine.ask(LONG, model=model)
    told = engine.name == "vllm" or not reply.thought
    assert reply.thinkroute["billed_tokens"]["provenance"] == ("reported" if told else "estimated")
    assert reply.thinkroute["billed_tokens"]["completion"] == reply.generated_tokens
    layout = {
        "teacher@on": len(("<think>", "\n", "\n", "</think>", "\n\n")),
        "teacher@off": 0,
        "teacher@budget=8": len(("<think>", "\n", "</think>", "\n\n")),
        "teacher-two-call@budget=8": len(("<think>", "\n")),
    }[model]
    said = engine.tokens(reply.thought) + engine.tokens(reply.content)
    assert reply.generated_tokens == said + layout + len(("<|im_end|>",))


@pytest.mark.parametrize("model", ["teacher@on", "teacher@off", "teacher-two-call@budget=8"])
@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_are_the_embedded_engines(
    engine: RealEngine, model: str, stream: bool
) -> None:
    [own] = await expected(engine.member, [LONG], model.partition("@")[2])
    if stream:
        events = await engine.stream(LONG, model=model, logprobs=True)
        entries = logprobs_of(events)
    else:
        entries = (await engine.ask(LONG, model=model, logprobs=True)).logprobs
    logprobs = [token.logprob for segment in own.segments for token in segment.logprobs or ()]
    told = [entry["logprob"] for entry in entries]
    if stream and engine.name == "llama.cpp":
        assert len(told) >= engine.tokens(own.content), "it leaves out only what has no text of its own"
        assert_in_order(told, logprobs)
    else:
        assert told == pytest.approx(logprobs, abs=1e-3)


@pytest.mark.parametrize("model", ["teacher@on", "teacher@off", "teacher-two-call@budget=16"])
async def test_a_stop_string_ends_the_answer(engine: RealEngine, model: str) -> None:
    reply = await engine.ask(LONG, model=model, stop=["digit of"])
    assert reply.content.rstrip() == "after all the steps the last"
    assert reply.finish == "stop"


async def test_a_cap_that_thinking_could_eat_becomes_a_budget(engine: RealEngine) -> None:
    reply = await engine.ask(LONG, model="teacher-two-call@on", max_tokens=30)
    assert reply.content.startswith("after all the steps")
    assert reply.generated_tokens <= 30
    assert reply.thinkroute["legs"] == 2


async def test_the_soft_switch_in_a_message_is_obeyed(engine: RealEngine) -> None:
    thinking, direct = await asyncio.gather(
        engine.ask(f"{LONG} /think", model="teacher@default"),
        engine.ask(f"{LONG} /no_think", model="teacher@default"),
    )
    assert thinking.thought
    assert not direct.thought


async def test_the_server_cuts_text_as_the_members_tokenizer_does(engine: RealEngine) -> None:
    own = Tokenizer.from_file(str(engine.member / "tokenizer.json"))
    for answer in await expected(engine.member, questions(200), "on"):
        text = "<|im_start|>assistant\n" + "".join(segment.text for segment in answer.segments)
        assert await engine.token_ids(text) == own.encode(text).ids


async def test_the_model_is_found_by_the_servers_address_alone(engine: RealEngine) -> None:
    """As `thinkroute serve --upstream` does; the family is recognised from the name."""
    [name] = await list_models(f"{engine.url}/v1", None, 10)
    assert family_of(name).name == "thinkroute-fleet"


async def test_a_refusal_of_the_server_reaches_the_caller(engine: RealEngine) -> None:
    """Letters that are no word take a token each: more than the gateway's estimate and than the window."""
    question = "zq" * 200
    status, body = await engine.post(model="teacher@off", messages=[{"role": "user", "content": question}])
    assert status == 400
    assert "256" in body["error"]["message"], "the server says its window"
