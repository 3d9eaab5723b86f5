"""What each program asks for and leaves behind, and that both drivers agree."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkroute.errors import ConfigError, EngineInterrupted
from thinkroute.programs import build
from thinkroute.programs.budgeted import thinking_allowance
from thinkroute.programs.driver import Delta, Prompt, Run, run_batch
from thinkroute.programs.effects import Append, Ask, Effect, Generate, Program, Return
from thinkroute.programs.protocol import Call, Segment, ThinkingFormat
from thinkroute.testing import Reply, ScriptedEngine
from thinkroute.types import FORCED, Arm, Effort, Price

FORMAT = ThinkingFormat(stop_text="Time is up.")
PROMPT = Prompt([{"role": "user", "content": "two plus two"}])
REPLY = Reply("The answer is four.", reasoning="one two three four five six")
PRICES = {"m": Price(1_000_000, 2_000_000)}  # $1 a prompt token, $2 a generated one


def arm(effort: str) -> Arm:
    parsed = Effort.parse(effort)
    return Arm("direct" if parsed.budget_tokens is None else "budgeted", ("m",), parsed)


async def run(
    program: Program, engine: ScriptedEngine, prompt: Prompt = PROMPT
) -> tuple[Run, dict[str, str], list[Delta]]:
    done = Run(program, prompt, {"m": engine}, PRICES)
    async with aclosing(done.events()) as events:
        deltas = [delta async for delta in events]
    texts = {"reasoning": "", "answer": ""}
    for delta in deltas:
        texts[delta.channel] += delta.text
    return done, texts, deltas


def raw(run: Run) -> str:
    return "".join(segment.text for segment in run.segments)


async def test_direct_thinks_in_one_call() -> None:
    done, texts, _ = await run(build(arm("on"), FORMAT, None), ScriptedEngine(REPLY))
    assert texts == {"reasoning": REPLY.reasoning, "answer": REPLY.answer}
    assert (done.finish, len(done.ledger.entries)) == ("stop", 1)


async def test_direct_off_does_not_think() -> None:
    _, texts, _ = await run(build(arm("off"), FORMAT, None), ScriptedEngine(REPLY))
    assert texts == {"reasoning": "", "answer": REPLY.answer}


async def test_a_budget_that_is_not_reached_changes_nothing() -> None:
    done, texts, _ = await run(build(arm("budget=50"), FORMAT, None), ScriptedEngine(REPLY))
    assert texts == {"reasoning": REPLY.reasoning, "answer": REPLY.answer}
    assert all(segment.owner != FORCED for segment in done.segments)


async def test_a_budget_cuts_the_thinking_says_so_and_still_answers() -> None:
    engine = ScriptedEngine(REPLY)
    done, texts, _ = await run(build(arm("budget=3"), FORMAT, None), engine)
    assert raw(done) == "<think>\none two \nTime is up.\n</think>\n\nThe answer is four."
    assert texts["answer"] == REPLY.answer
    assert texts["reasoning"].endswith("Time is up.")
    assert [segment.owner for segment in done.segments] == ["m", FORCED, "m"]
    assert done.ledger.entries[0].usage.completion_tokens == 3
    assert engine.calls[1].prefix == tuple(done.segments[:2])
    assert done.finish == "stop"


async def test_an_engine_that_runs_on_into_the_answer_is_asked_only_for_the_rest() -> None:
    engine = ScriptedEngine(REPLY, stops_at_thinking_end=False)
    done, texts, _ = await run(build(arm("budget=9"), FORMAT, None), engine)
    assert texts == {"reasoning": REPLY.reasoning, "answer": REPLY.answer}
    assert len(engine.calls) == 2
    assert all(segment.owner != FORCED for segment in done.segments)
    whole, texts, _ = await run(build(arm("budget=90"), FORMAT, None), engine)
    assert (len(whole.segments), texts["answer"]) == (1, REPLY.answer)


async def test_without_a_stop_text_the_block_is_just_closed() -> None:
    done, _, _ = await run(build(arm("budget=2"), ThinkingFormat(stop_text=""), None), ScriptedEngine(REPLY))
    assert done.segments[1].text == "\n</think>\n\n"


async def test_a_cap_smaller_than_budget_and_floor_shrinks_the_budget_not_the_answer() -> None:
    done, texts, _ = await run(
        build(arm("budget=100"), FORMAT, 8, answer_floor_tokens=4), ScriptedEngine(REPLY)
    )
    assert done.ledger.entries[0].usage.completion_tokens == 4
    assert texts["answer"].split() == REPLY.answer.split()
    assert done.ledger.usage.completion_tokens <= 8


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.booleans())
def test_budget_and_cap_hold_and_the_answer_is_never_empty(
    budget: int, cap: int, floor: int, stops: bool
) -> None:
    engine = ScriptedEngine(REPLY, stops_at_thinking_end=stops)
    program = build(arm(f"budget={budget}"), FORMAT, cap, answer_floor_tokens=floor)
    done, texts, _ = asyncio.run(run(program, engine))
    thinking = sum(entry.usage.reasoning_tokens for entry in done.ledger.entries)
    assert thinking <= budget
    assert done.ledger.usage.completion_tokens <= cap
    assert texts["answer"]


@given(
    st.one_of(st.none(), st.integers(0, 100)), st.one_of(st.none(), st.integers(1, 100)), st.integers(1, 50)
)
def test_the_allowance_never_exceeds_budget_or_cap(budget: int | None, cap: int | None, floor: int) -> None:
    allowance = thinking_allowance(budget, cap, floor)
    if allowance is None:
        assert budget is None
        assert cap is None
        return
    assert allowance >= 0
    assert budget is None or allowance <= budget
    assert cap is None or allowance < cap


async def test_the_ledger_prices_every_leg_and_marks_forced_text_as_nobody_s() -> None:
    done, _, _ = await run(build(arm("budget=3"), FORMAT, None), ScriptedEngine(REPLY))
    first, second = done.ledger.entries
    costs = [leg.usage.prompt_tokens + 2 * leg.usage.completion_tokens for leg in (first, second)]
    assert [first.cost_usd, second.cost_usd] == costs
    assert done.ledger.cost_usd == sum(costs)


async def test_a_model_without_a_price_costs_an_unknown_amount() -> None:
    done = Run(build(arm("on"), FORMAT, None), PROMPT, {"m": ScriptedEngine(REPLY)}, {})
    async with aclosing(done.events()) as events:
        async for _ in events:
            pass
    assert done.ledger.cost_usd is None


async def test_a_failing_engine_leaves_its_leg_in_the_ledger() -> None:
    broken = Reply("one two three four", error=EngineInterrupted("gone"), error_after_tokens=2)
    done = Run(build(arm("off"), FORMAT, None), PROMPT, {"m": ScriptedEngine(broken)}, PRICES)
    seen: list[str] = []

    async def collect() -> None:
        async with aclosing(done.events()) as events:
            async for delta in events:
                seen.append(delta.text)  # noqa: PERF401 - the texts before the failure are the point

    with pytest.raises(EngineInterrupted):
        await collect()
    assert "".join(seen) == "one two "
    (entry,) = done.ledger.entries
    assert (entry.error, entry.usage.provenance) == ("upstream_interrupted", "estimated")
    assert done.finish is None


async def test_closing_a_run_closes_the_engine_call_and_records_it() -> None:
    engine = ScriptedEngine(REPLY, token_delay_s=0.01)
    done = Run(build(arm("on"), FORMAT, None), PROMPT, {"m": engine}, PRICES)
    async with aclosing(done.events()) as events:
        async for _ in events:
            break
    assert (engine.active, engine.closed_early) == (0, 1)
    assert done.ledger.entries[0].error == "cancelled"


def test_an_unknown_program_is_named() -> None:
    with pytest.raises(ConfigError, match="unknown program 'wrong'"):
        build(Arm("wrong", ("m",)), FORMAT, None)


def ask_first() -> Program:
    """A program that consults the model apart before it answers."""
    hint = yield Ask("m", [{"role": "user", "content": "hint"}])
    yield Append(f"[{hint.text}] ", owner="hinter")
    answer = yield Generate("m", Effort("off"))
    return Return(answer.finish)


async def test_asked_answers_reach_the_program_but_not_the_caller() -> None:
    done, texts, deltas = await run(ask_first(), ScriptedEngine(["use fingers", "[use fingers] four"]))
    assert texts["answer"] == "[use fingers] four"
    assert deltas[0].owner == "hinter"
    assert len(done.ledger.entries) == 2
    assert [segment.owner for segment in done.segments] == ["hinter", "m"]


@pytest.mark.parametrize("effort", ["off", "on", "budget=2", "budget=9", "budget=90"])
async def test_the_batched_driver_leaves_the_same_trajectory_as_the_streaming_one(effort: str) -> None:
    batches: list[int] = []

    def generate(calls: Sequence[Call]) -> list[Segment]:
        batches.append(len(calls))
        return [asyncio.run_coroutine_threadsafe(one(call), loop).result() for call in calls]

    async def one(call: Call) -> Segment:
        async with aclosing(ScriptedEngine(REPLY).generate(call)) as items:
            async for item in items:
                if isinstance(item, Segment):
                    return item
        raise AssertionError("no segment")

    loop = asyncio.get_running_loop()
    programs = [build(arm(effort), FORMAT, None) for _ in range(3)]
    results = await asyncio.to_thread(run_batch, programs, [PROMPT] * 3, generate)
    done, _, _ = await run(build(arm(effort), FORMAT, None), ScriptedEngine(REPLY))
    for segments, finish in results:
        assert [(s.text, s.owner, s.finish) for s in segments] == [
            (s.text, s.owner, s.finish) for s in done.segments
        ]
        assert finish == done.finish
    assert batches[0] == 3, "all pending calls go out in one batch"


def test_effects_are_plain_data() -> None:
    effect: Effect = Generate("m", Effort("on"), 5, until_thinking_end=True)
    assert effect == Generate("m", Effort("on"), 5, until_thinking_end=True)
