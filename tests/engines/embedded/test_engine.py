"""The engine's promises, on the shipped members."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from thinkroute.catalog import family_named
from thinkroute.engines.embedded import EmbeddedEngine
from thinkroute.engines.embedded.decoder import Decoder
from thinkroute.errors import (
    EngineError,
    EngineInterrupted,
    InvalidRequest,
    OutOfScope,
    Overloaded,
    UnknownModel,
    UnsupportedRequest,
)
from thinkroute.fleet import shipped
from thinkroute.fleet.architecture import Architecture
from thinkroute.fleet.bench import draw_prompts
from thinkroute.fleet.tasks import check_scope
from thinkroute.programs.protocol import Call, Chunk, Segment
from thinkroute.types import FORCED, Effort

MEMBERS = {name: shipped.directory(name) for name in shipped.names()}
QUESTION = draw_prompts(5, seed=1)[4]
"""Of the highest level, so that there is much to think."""


@pytest.fixture
async def engine() -> AsyncGenerator[EmbeddedEngine, None]:
    running = EmbeddedEngine(MEMBERS, check_scope=check_scope)
    await running.start()
    yield running
    await running.aclose()


def call(question: str = QUESTION, effort: str = "on", model: str = "teacher", **fields: Any) -> Call:
    return Call(model, [{"role": "user", "content": question}], Effort.parse(effort), **fields)


async def ask(engine: EmbeddedEngine, request: Call) -> tuple[list[Chunk], Segment]:
    items = [item async for item in engine.generate(request)]
    segments = [item for item in items if isinstance(item, Segment)]
    assert len(segments) == 1
    assert items[-1] is segments[0]
    return [item for item in items if isinstance(item, Chunk)], segments[0]


async def wait_until_idle(engine: EmbeddedEngine) -> None:
    async with asyncio.timeout(1):
        while engine.running:  # noqa: ASYNC110 - the worker is a thread, there is no event to await
            await asyncio.sleep(0.001)


def joined(chunks: Sequence[Chunk], channel: str) -> str:
    return "".join(chunk.text for chunk in chunks if chunk.channel == channel)


async def test_thinking_streams_reasoning_then_answer_and_the_segment_holds_both(
    engine: EmbeddedEngine,
) -> None:
    chunks, segment = await ask(engine, call())
    reasoning, answer = joined(chunks, "reasoning"), joined(chunks, "answer")
    assert reasoning
    assert answer
    assert segment.text == f"<think>\n{reasoning}\n</think>\n\n{answer}"
    assert "<" not in reasoning + answer
    assert (segment.finish, segment.thinking_closed, segment.owner) == ("stop", True, "teacher")
    assert segment.ttft_s is not None
    assert 0 < segment.ttft_s <= segment.latency_s


async def test_without_thinking_there_is_only_an_answer(engine: EmbeddedEngine) -> None:
    chunks, segment = await ask(engine, call(effort="off"))
    assert joined(chunks, "reasoning") == ""
    assert joined(chunks, "answer") == segment.text
    assert segment.usage.reasoning_tokens == 0


async def test_soft_switches_are_obeyed_when_the_effort_is_left_open(engine: EmbeddedEngine) -> None:
    _, thought = await ask(engine, call(f"{QUESTION} /think", "default"))
    _, direct = await ask(engine, call(f"{QUESTION} /think /no_think", "default"))
    assert thought.usage.reasoning_tokens > 10
    assert direct.text.startswith("<think>\n\n</think>\n\n")


async def test_usage_counts_what_the_call_read_and_wrote(engine: EmbeddedEngine) -> None:
    _, segment = await ask(engine, call())
    usage = segment.usage
    assert segment.token_ids is not None
    assert usage.provenance == "counted"
    assert usage.completion_tokens == len(segment.token_ids)
    assert usage.prompt_tokens > 20
    assert 0 < usage.reasoning_tokens < usage.completion_tokens


async def test_max_tokens_cuts_exactly(engine: EmbeddedEngine) -> None:
    _, whole = await ask(engine, call())
    _, cut = await ask(engine, call(max_tokens=7))
    assert whole.token_ids is not None
    assert cut.token_ids == whole.token_ids[:7]
    assert (cut.finish, cut.thinking_closed) == ("length", False)


async def test_a_message_generated_in_pieces_equals_the_one_generated_at_once(engine: EmbeddedEngine) -> None:
    _, whole = await ask(engine, call())
    prefix: tuple[Segment, ...] = ()
    for _ in range(20):
        _, piece = await ask(engine, call(prefix=prefix, max_tokens=11))
        prefix = (*prefix, piece)
        if piece.finish == "stop":
            break
    assert "".join(piece.text for piece in prefix) == whole.text


async def test_thinking_can_be_stopped_at_its_end_and_the_answer_asked_for_separately(
    engine: EmbeddedEngine,
) -> None:
    _, whole = await ask(engine, call())
    _, thought = await ask(engine, call(until_thinking_end=True))
    assert (thought.finish, thought.thinking_closed) == ("thinking_end", True)
    assert thought.text.endswith("\n</think>")
    chunks, answer = await ask(engine, call(prefix=(thought,)))
    assert thought.text + answer.text == whole.text
    assert joined(chunks, "answer") == answer.text.lstrip("\n")


async def test_an_answer_follows_a_block_that_was_closed_by_force(engine: EmbeddedEngine) -> None:
    close = family_named("thinkroute-fleet").close_text
    for budget in (1, 2, 3, 8, 20):
        _, thought = await ask(engine, call(max_tokens=budget, until_thinking_end=True))
        assert thought.finish == "length"
        chunks, answer = await ask(engine, call(prefix=(thought, Segment(close, FORCED))))
        assert joined(chunks, "answer") == answer.text
        assert answer.text.strip()
        assert answer.thinking_closed


async def test_greedy_tokens_do_not_depend_on_the_batch(engine: EmbeddedEngine) -> None:
    requests = [call(question, effort) for question in draw_prompts(24, seed=0) for effort in ("on", "off")]
    together = await asyncio.gather(*(ask(engine, request) for request in requests))
    for request, (_, among) in zip(requests, together, strict=True):
        _, alone = await ask(engine, request)
        assert alone.token_ids == among.token_ids


async def test_both_members_run_side_by_side(engine: EmbeddedEngine) -> None:
    replies = await asyncio.gather(*(ask(engine, call(model=name)) for name in MEMBERS for _ in range(5)))
    assert {segment.owner for _, segment in replies} == set(MEMBERS)


async def test_without_streaming_the_same_text_comes(engine: EmbeddedEngine) -> None:
    streamed, _ = await ask(engine, call())
    chunks, segment = await ask(engine, call(stream=False))
    for channel in ("reasoning", "answer"):
        assert joined(chunks, channel) == joined(streamed, channel)
    assert segment.text.endswith(".")


async def test_a_stop_string_ends_the_answer_before_itself(engine: EmbeddedEngine) -> None:
    chunks, whole = await ask(engine, call())
    answer = joined(chunks, "answer")
    stop = answer[len(answer) // 2 :][:5]
    for stream in (True, False):
        chunks, segment = await ask(engine, call(options={"stop": [stop]}, stream=stream))
        assert joined(chunks, "answer") == answer[: answer.find(stop)]
        assert whole.text.startswith(segment.text)
        assert segment.text.endswith(joined(chunks, "answer"))
        assert segment.finish == "stop"
        assert segment.usage.completion_tokens < whole.usage.completion_tokens


async def test_a_row_that_met_its_stop_string_leaves_its_seat(engine: EmbeddedEngine) -> None:
    chunks, _ = await ask(engine, call())
    await ask(engine, call(options={"stop": joined(chunks, "answer")[:3]}))
    await wait_until_idle(engine)


async def test_logprobs_come_for_every_token_and_with_the_chunks(engine: EmbeddedEngine) -> None:
    chunks, segment = await ask(engine, call(options={"logprobs": True, "top_logprobs": 3}))
    assert segment.logprobs is not None
    assert segment.token_ids is not None
    assert len(segment.logprobs) == len(segment.token_ids)
    assert all(entry.logprob <= 0 and len(entry.top) == 3 for entry in segment.logprobs)
    assert all(entry.top[0] == (entry.token, entry.logprob) for entry in segment.logprobs)
    shown = "".join(entry.token for chunk in chunks for entry in chunk.logprobs or ())
    assert shown.startswith(joined(chunks, "reasoning"))
    assert joined(chunks, "reasoning")


async def test_sampling_repeats_with_its_seed_and_varies_without(engine: EmbeddedEngine) -> None:
    hot = {"temperature": 2.0, "seed": 5}
    _, first = await ask(engine, call(options=hot))
    _, second = await ask(engine, call(options=hot))
    assert first.token_ids == second.token_ids
    others = [(await ask(engine, call(options={"temperature": 2.0})))[1].token_ids for _ in range(8)]
    assert len(set(others)) > 1


async def test_a_seeded_request_draws_the_same_tokens_in_a_crowd(engine: EmbeddedEngine) -> None:
    requests = [
        call(question, options={"temperature": 1.5, "top_p": 0.95, "top_k": 50, "seed": seed})
        for seed, question in enumerate(draw_prompts(10, seed=5))
    ]
    alone = [(await ask(engine, request))[1].token_ids for request in requests]
    crowd = [call(options={"temperature": 1.0}) for _ in range(20)]
    together = await asyncio.gather(*(ask(engine, request) for request in (*crowd, *requests)))
    assert [segment.token_ids for _, segment in together[len(crowd) :]] == alone


async def test_closing_a_stream_frees_its_seat_at_once(engine: EmbeddedEngine) -> None:
    stream = engine.generate(call(options={"temperature": 1.0}))
    await anext(stream)
    assert engine.running == 1
    await stream.aclose()
    await wait_until_idle(engine)


async def test_cancelling_some_rows_leaves_the_others_untouched(engine: EmbeddedEngine) -> None:
    asked = draw_prompts(12, seed=3)
    expected = [(await ask(engine, call(question)))[1].token_ids for question in asked]
    tasks = [asyncio.create_task(ask(engine, call(question))) for question in asked]
    await asyncio.sleep(0.01)
    for task in tasks[::3]:
        task.cancel()
    replies = await asyncio.gather(*tasks, return_exceptions=True)
    for index, reply in enumerate(replies):
        if isinstance(reply, tuple):
            assert reply[1].token_ids == expected[index]
        else:
            assert isinstance(reply, asyncio.CancelledError)


async def test_more_requests_than_seats_wait_their_turn_and_too_many_are_refused() -> None:
    engine = EmbeddedEngine(MEMBERS, seats=2, queue_limit=4)
    await engine.start()
    results = await asyncio.gather(*(ask(engine, call()) for _ in range(4)))
    assert len({segment.text for _, segment in results}) == 1
    crowd = await asyncio.gather(*(ask(engine, call()) for _ in range(40)), return_exceptions=True)
    refused = [reply for reply in crowd if isinstance(reply, Overloaded)]
    assert refused
    assert len(refused) < 40
    await engine.aclose()


async def test_a_request_that_is_given_up_while_it_waits_is_never_begun() -> None:
    engine = EmbeddedEngine(MEMBERS, seats=1, prefix_bytes=0)
    running = asyncio.create_task(ask(engine, call(options={"temperature": 1.0})))
    while not engine.running:  # noqa: ASYNC110 - the worker is a thread, there is no event to await
        await asyncio.sleep(0.001)
    waiting = asyncio.create_task(ask(engine, call()))
    await asyncio.sleep(0)
    waiting.cancel()
    _, segment = await running
    _, after = await ask(engine, call())
    assert engine.prefilled_tokens("teacher") == segment.usage.prompt_tokens + after.usage.prompt_tokens
    await engine.aclose()


async def test_requests_from_several_event_loops_share_one_engine(engine: EmbeddedEngine) -> None:
    _, expected = await ask(engine, call())

    def elsewhere() -> list[Segment]:
        async def several() -> list[Segment]:
            return [segment for _, segment in await asyncio.gather(*(ask(engine, call()) for _ in range(4)))]

        return asyncio.run(several())

    replies = await asyncio.gather(*(asyncio.to_thread(elsewhere) for _ in range(3)), ask(engine, call()))
    texts = {segment.text for reply in replies[:3] for segment in reply if isinstance(segment, Segment)}
    assert texts == {expected.text}


async def test_an_event_loop_that_closed_takes_no_one_else_down(engine: EmbeddedEngine) -> None:
    def abandon() -> None:
        async def begin() -> None:
            stream = engine.generate(call(options={"temperature": 1.0}))
            await anext(stream)
            left.append(stream)  # kept alive, so that nobody closes it in time

        left: list[AsyncGenerator[Chunk | Segment, None]] = []
        loop = asyncio.new_event_loop()
        loop.run_until_complete(begin())
        loop.close()

    await asyncio.to_thread(abandon)
    await wait_until_idle(engine)
    _, segment = await ask(engine, call())
    assert segment.finish == "stop"


async def test_a_step_that_fails_is_told_to_everybody_and_the_next_requests_are_served(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Running, just entering and waiting ones: nobody is left hanging."""
    engine = EmbeddedEngine(MEMBERS, seats=4)
    _, expected = await ask(engine, call())
    step, steps = Decoder.step, iter(range(1000))

    def failing(self: Decoder, first: int, *arguments: Any) -> Any:
        if next(steps) >= 10:
            raise RuntimeError("no more memory")
        return step(self, first, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Decoder, "step", failing)
        crowd = await asyncio.gather(*(ask(engine, call()) for _ in range(12)), return_exceptions=True)
    assert [type(reply) for reply in crowd] == [EngineError] * 12
    assert "no more memory" in caplog.text
    _, after = await ask(engine, call())
    assert after.token_ids == expected.token_ids
    await engine.aclose()


async def test_closing_the_engine_ends_what_is_under_way() -> None:
    engine = EmbeddedEngine(MEMBERS)
    stream = engine.generate(call(options={"temperature": 1.0}))
    await anext(stream)
    await engine.aclose()
    with pytest.raises(EngineInterrupted):
        async for _ in stream:
            pass


async def test_a_question_outside_the_fleets_language_is_refused_with_help(engine: EmbeddedEngine) -> None:
    with pytest.raises(OutOfScope, match="point thinkroute at a real model"):
        await ask(engine, call("What is the capital of France?"))


async def test_an_unknown_member_is_refused_by_name(engine: EmbeddedEngine) -> None:
    with pytest.raises(UnknownModel, match=f"'professor'.*{', '.join(MEMBERS)}"):
        await ask(engine, call(model="professor"))


async def test_a_parameter_that_cannot_be_honoured_is_refused(engine: EmbeddedEngine) -> None:
    with pytest.raises(UnsupportedRequest, match="presence_penalty"):
        await ask(engine, call(options={"presence_penalty": 1}))


async def test_a_prompt_that_fills_the_window_is_refused_with_the_limit() -> None:
    engine = EmbeddedEngine(MEMBERS)
    with pytest.raises(InvalidRequest, match=r"window is \d+ tokens") as caught:
        await ask(engine, call("plus 3. " * 200))
    assert caught.value.code == "context_length_exceeded"
    await engine.aclose()


POSITIONS = Architecture.read(MEMBERS["teacher"] / "config.json").positions


async def test_a_long_prompt_and_a_cap_beyond_the_window_end_at_the_window() -> None:
    engine = EmbeddedEngine(MEMBERS)
    _, segment = await ask(engine, call("plus 3. " * 70, max_tokens=100_000, options={"temperature": 1.0}))
    assert segment.finish in ("length", "stop")
    assert segment.usage.prompt_tokens + segment.usage.completion_tokens <= POSITIONS
    await engine.aclose()


def test_serving_imports_no_torch() -> None:
    program = (
        "import asyncio, sys\n"
        "from thinkroute.engines.embedded import EmbeddedEngine\n"
        "from thinkroute.fleet import shipped, tasks\n"
        "from thinkroute.programs.protocol import Call\n"
        "async def main():\n"
        "    engine = EmbeddedEngine({'student': shipped.directory('student')}, check_scope=tasks.check_scope)\n"
        "    call = Call('student', [{'role': 'user', 'content': tasks.EXAMPLES[0]}])\n"
        "    async for item in engine.generate(call):\n"
        "        pass\n"
        "    await engine.aclose()\n"
        "asyncio.run(main())\n"
        "print(sorted({'torch', 'transformers', 'onnx', 'jinja2'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
