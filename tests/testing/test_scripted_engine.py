"""The scripted engine keeps the parts of the engine contract that programs lean on."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkroute.errors import EngineInterrupted, EngineUnavailable
from thinkroute.programs import build
from thinkroute.programs.driver import Prompt, Run
from thinkroute.programs.protocol import Call, Chunk, Segment, ThinkingFormat
from thinkroute.testing import Reply, ScriptedEngine
from thinkroute.testing.reply import tokens
from thinkroute.types import FORCED, Arm, Effort

QUESTION = [{"role": "user", "content": "what is 2+2?"}]
THINKER = Reply("The answer is four.", reasoning="Let me see. Two and two.")
_WORDS = st.lists(st.sampled_from(["one", "two", "three,"]), min_size=1, max_size=12).map(" ".join)


def call(**fields: Any) -> Call:
    return replace(Call("m", QUESTION), **fields)


async def collect(engine: ScriptedEngine, a_call: Call) -> tuple[list[Chunk], Segment]:
    items = [item async for item in engine.generate(a_call)]
    assert isinstance(items[-1], Segment)
    return [item for item in items[:-1] if isinstance(item, Chunk)], items[-1]


def text_of(chunks: Sequence[Chunk], channel: str) -> str:
    return "".join(chunk.text for chunk in chunks if chunk.channel == channel)


@pytest.mark.parametrize("stream", [True, False])
async def test_it_thinks_and_answers_in_counted_tokens(stream: bool) -> None:
    chunks, segment = await collect(ScriptedEngine(THINKER), call(stream=stream))
    assert (text_of(chunks, "reasoning"), text_of(chunks, "answer")) == (THINKER.reasoning, THINKER.answer)
    assert segment.text == "<think>\nLet me see. Two and two.\n</think>\n\nThe answer is four."
    assert (segment.usage.prompt_tokens, segment.usage.completion_tokens, segment.usage.reasoning_tokens) == (
        3,
        12,
        8,
    )
    assert len(chunks) == (10 if stream else 2)


async def test_effort_off_answers_at_once() -> None:
    chunks, segment = await collect(ScriptedEngine(THINKER), call(effort=Effort("off")))
    assert (text_of(chunks, "reasoning"), segment.text) == ("", THINKER.answer)


async def test_a_cap_cuts_thinking_and_leaves_the_block_open() -> None:
    _, segment = await collect(ScriptedEngine(THINKER), call(max_tokens=3))
    assert (segment.text, segment.finish, segment.thinking_closed) == ("<think>\nLet me ", "length", False)


@pytest.mark.parametrize("stops", [True, False])
async def test_it_stops_at_the_end_of_thinking_when_it_is_one_that_can(stops: bool) -> None:
    engine = ScriptedEngine(THINKER, stops_at_thinking_end=stops)
    _, segment = await collect(engine, call(until_thinking_end=True))
    assert segment.finish == ("thinking_end" if stops else "stop")
    assert segment.text.endswith("</think>\n\n") == stops
    assert segment.thinking_closed


@given(_WORDS, _WORDS, st.integers(1, 40))
def test_a_message_cut_anywhere_and_continued_is_the_message(reasoning: str, answer: str, cap: int) -> None:
    async def said_in_two() -> str:
        engine = ScriptedEngine(Reply(answer, reasoning))
        _, first = await collect(engine, call(max_tokens=cap))
        if first.finish == "stop":
            return first.text
        _, second = await collect(engine, call(prefix=(first,)))
        return first.text + second.text

    assert asyncio.run(said_in_two()) == f"<think>\n{reasoning}\n</think>\n\n{answer}"


@given(_WORDS, _WORDS, st.integers(1, 20), st.booleans())
def test_a_budget_holds_and_the_answer_comes(reasoning: str, answer: str, budget: int, stops: bool) -> None:
    async def run() -> Run:
        engine = ScriptedEngine(Reply(answer, reasoning), stops_at_thinking_end=stops)
        program = build(Arm("budgeted", ("m",), Effort("on", budget)), ThinkingFormat(), None)
        running = Run(program, Prompt(QUESTION), {"m": engine}, {})
        deltas = [delta async for delta in running.events()]
        assert "".join(delta.text for delta in deltas if delta.channel == "answer") == answer
        return running

    done = asyncio.run(run())
    assert (
        sum(segment.usage.reasoning_tokens for segment in done.segments if segment.owner != FORCED) <= budget
    )


async def test_a_script_may_be_a_function_of_the_call() -> None:
    engine = ScriptedEngine(lambda a_call: Reply(str(a_call.effort)))
    _, segment = await collect(engine, call(effort=Effort("high")))
    assert segment.text == "high"


async def test_a_sequence_answers_one_call_each_and_then_is_exhausted() -> None:
    engine = ScriptedEngine(["one", Reply("two")])
    assert [(await collect(engine, call()))[1].text for _ in range(2)] == ["one", "two"]
    with pytest.raises(EngineUnavailable, match="2 replies, this is call 3"):
        await collect(engine, call())
    assert len(engine.calls) == 3


async def test_an_error_comes_after_the_tokens_before_it() -> None:
    engine = ScriptedEngine(Reply("one two three", error=EngineInterrupted("gone"), error_after_tokens=2))
    chunks: list[str] = []

    async def listen() -> None:
        async for item in engine.generate(call()):
            assert isinstance(item, Chunk)
            chunks.append(item.text)

    with pytest.raises(EngineInterrupted, match="gone"):
        await listen()
    assert chunks == ["one ", "two "]
    assert (engine.active, engine.closed_early) == (0, 0)


async def test_closing_early_is_noticed() -> None:
    engine = ScriptedEngine(THINKER)
    async with aclosing(engine.generate(call())) as items:
        await anext(items)
        assert engine.active == 1
    assert (engine.active, engine.closed_early) == (0, 1)


@given(st.text(" \nab", max_size=30))
def test_tokens_join_to_the_text(text: str) -> None:
    assert "".join(tokens(text)) == text
