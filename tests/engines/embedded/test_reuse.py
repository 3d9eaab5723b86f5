"""Prompts that begin like an earlier one: the same answers, and only the rest is computed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest

from thinkroute.engines.embedded import EmbeddedEngine
from thinkroute.fleet import shipped
from thinkroute.fleet.bench import draw_prompts
from thinkroute.programs.protocol import Call, Segment
from thinkroute.types import FORCED, Effort

MEMBERS = {name: shipped.directory(name) for name in shipped.names()}
FIRST, SECOND = list(MEMBERS)[:2]
CLOSE = "\n</think>\n\n"


@asynccontextmanager
async def engine_with(prefix_bytes: int, seats: int = 64) -> AsyncGenerator[EmbeddedEngine]:
    # one worker: rows lend to each other within one, and what two share is tested beside them (test_workers)
    engine = EmbeddedEngine(MEMBERS, prefix_bytes=prefix_bytes, seats=seats, threads=1)
    await engine.start()
    yield engine
    await engine.aclose()


def call(question: str, effort: str = "on", model: str = FIRST, **fields: Any) -> Call:
    messages = [{"role": "user", "content": question}]
    return Call(model, messages, Effort.parse(effort), options={"logprobs": True}, **fields)


async def ask(engine: EmbeddedEngine, request: Call) -> Segment:
    items = [item async for item in engine.generate(request)]
    assert isinstance(items[-1], Segment)
    return items[-1]


def assert_same(left: Segment, right: Segment) -> None:
    assert left.token_ids == right.token_ids
    assert left.text == right.text
    assert left.logprobs is not None
    assert right.logprobs is not None
    expected = [entry.logprob for entry in left.logprobs]
    assert [entry.logprob for entry in right.logprobs] == pytest.approx(expected, abs=1e-3)


async def budgeted(engine: EmbeddedEngine, question: str, budget: int) -> list[Segment]:
    """A hard thinking budget in two calls."""
    thought = await ask(engine, call(question, max_tokens=budget, until_thinking_end=True))
    if thought.thinking_closed:
        return [thought]
    prefix = (thought, Segment(CLOSE, FORCED))
    return [thought, await ask(engine, call(question, prefix=prefix))]


async def relayed(engine: EmbeddedEngine, question: str, turns: Sequence[int]) -> list[Segment]:
    """A message that two members write in turn."""
    prefix: tuple[Segment, ...] = ()
    for turn, size in enumerate(turns):
        model = (FIRST, SECOND)[turn % 2]
        piece = await ask(engine, call(question, model=model, prefix=prefix, max_tokens=size))
        prefix = (*prefix, piece)
        if piece.finish == "stop":
            break
    return list(prefix)


async def mixture(engine: EmbeddedEngine, seed: int) -> list[Segment]:
    """Requests of all kinds, with questions that repeat, in random interleavings; some are cancelled."""
    rng = Random(seed)
    questions = draw_prompts(6, seed)
    started: list[asyncio.Task[list[Segment]]] = []
    doomed: list[asyncio.Task[list[Segment]]] = []

    async def single(question: str, effort: str, model: str) -> list[Segment]:
        return [await ask(engine, call(question, effort, model))]

    for number in range(30):
        question, model = rng.choice(questions), rng.choice((FIRST, SECOND))
        kind = rng.choice(("on", "off", "default", "budget", "relay"))
        if kind == "budget":
            work = budgeted(engine, question, rng.randrange(1, 24))
        elif kind == "relay":
            work = relayed(engine, question, [rng.randrange(1, 12) for _ in range(8)])
        else:
            work = single(question, kind, model)
        (doomed if number % 5 == 4 else started).append(asyncio.create_task(work))
        await asyncio.sleep(rng.choice((0, 0, 0.001, 0.004)))
        if doomed and rng.random() < 0.5:
            doomed[-1].cancel()
    replies = await asyncio.gather(*started)
    for task in doomed:
        task.cancel()
    await asyncio.gather(*doomed, return_exceptions=True)
    return [segment for reply in replies for segment in reply]


@pytest.mark.parametrize(("seed", "prefix_bytes", "seats"), [(0, 2**24, 64), (1, 2**24, 5), (2, 200_000, 3)])
async def test_reuse_changes_no_token_and_no_logprob(seed: int, prefix_bytes: int, seats: int) -> None:
    """Under interleaving and cancellation, with seats that change hands, and with entries being evicted."""
    async with engine_with(0) as plain, engine_with(prefix_bytes, seats) as reusing:
        expected = await mixture(plain, seed)
        for segment, other in zip(expected, await mixture(reusing, seed), strict=True):
            assert segment.usage.cached_tokens == 0
            assert_same(segment, other)
        assert sum(map(plain.prefilled_tokens, MEMBERS)) > sum(map(reusing.prefilled_tokens, MEMBERS))


async def test_a_repeated_question_computes_one_token_again() -> None:
    question = draw_prompts(1, 3)[0]
    async with engine_with(2**24) as engine:
        first = await ask(engine, call(question))
        assert engine.prefilled_tokens(FIRST) == first.usage.prompt_tokens
        again = await ask(engine, call(question))
        assert engine.prefilled_tokens(FIRST) == first.usage.prompt_tokens + 1
        assert again.usage.cached_tokens == again.usage.prompt_tokens - 1
        assert_same(first, again)


async def test_another_effort_for_the_same_question_computes_only_what_differs() -> None:
    question = draw_prompts(1, 4)[0]
    async with engine_with(2**24) as engine:
        thought = await ask(engine, call(question))
        direct = await ask(engine, call(question, "off"))
        # The empty block begins as the thought did: with the tag.
        new = direct.usage.prompt_tokens - thought.usage.prompt_tokens
        assert direct.usage.cached_tokens >= thought.usage.prompt_tokens
        assert engine.prefilled_tokens(FIRST) <= thought.usage.prompt_tokens + new


async def test_the_second_call_of_a_budget_computes_only_the_last_thought_and_the_close() -> None:
    question = draw_prompts(1, 5)[0]
    async with engine_with(2**24) as engine:
        thought, answer = await budgeted(engine, question, 6)
        assert thought.token_ids is not None
        close = answer.usage.prompt_tokens - thought.usage.prompt_tokens - len(thought.token_ids)
        assert answer.usage.prompt_tokens - answer.usage.cached_tokens == 1 + close
        assert engine.prefilled_tokens(FIRST) == thought.usage.prompt_tokens + 1 + close


async def test_members_that_write_in_turn_compute_only_what_the_other_wrote() -> None:
    question, turns = draw_prompts(1, 6)[0], [3, 4, 2, 5, 1, 3]
    async with engine_with(2**24) as engine:
        pieces = await relayed(engine, question, turns)
        assert len(pieces) == len(turns)
        prompt = pieces[0].usage.prompt_tokens
        for turn, piece in enumerate(pieces):
            new = piece.usage.prompt_tokens - piece.usage.cached_tokens
            if turn < 2:
                assert new == prompt + sum(turns[:turn])
            else:  # the other's tokens, and its own last one, which it chose but never read
                assert new == turns[turn - 1] + 1
        computed = sum(piece.usage.prompt_tokens - piece.usage.cached_tokens for piece in pieces)
        assert engine.prefilled_tokens(FIRST) + engine.prefilled_tokens(SECOND) == computed


async def test_questions_asked_at_the_same_time_share_their_prompt() -> None:
    question = draw_prompts(1, 7)[0]
    async with engine_with(2**24) as engine:
        requests = [call(question) for _ in range(8)] + [call(question, "off") for _ in range(3)]
        replies = await asyncio.gather(*(ask(engine, request) for request in requests))
        prompt = replies[0].usage.prompt_tokens
        fresh = [reply for reply in replies if reply.usage.cached_tokens < prompt - 1]
        assert len(fresh) <= 2  # the first, or two where they arrived at different steps
        for reply in replies[1:8]:
            assert_same(replies[0], reply)


async def test_a_running_row_lends_what_it_holds() -> None:
    question = draw_prompts(1, 8)[0]
    async with engine_with(2**24) as engine:
        alone = await ask(engine, call(question))
    async with engine_with(2**24) as engine:
        stream = engine.generate(call(question, model=FIRST, stream=True))
        await anext(stream)
        beside = await ask(engine, call(question))
        assert beside.usage.cached_tokens == beside.usage.prompt_tokens - 1
        assert_same(alone, beside)
        await stream.aclose()


async def test_a_cancelled_request_leaves_what_it_computed() -> None:
    question = draw_prompts(1, 9)[0]
    async with engine_with(2**24) as engine:
        stream = engine.generate(call(question))
        await anext(stream)
        await stream.aclose()
        while engine.running:  # noqa: ASYNC110 - the worker is a thread, there is no event to await
            await asyncio.sleep(0.001)
        after = await ask(engine, call(question))
        assert after.usage.cached_tokens == after.usage.prompt_tokens - 1


async def test_reuse_can_be_switched_off() -> None:
    question = draw_prompts(1, 10)[0]
    async with engine_with(0) as engine:
        first, again = await ask(engine, call(question)), await ask(engine, call(question))
        assert again.usage.cached_tokens == 0
        assert engine.prefilled_tokens(FIRST) == 2 * first.usage.prompt_tokens
