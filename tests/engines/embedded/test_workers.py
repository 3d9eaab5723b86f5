"""Several workers share the rows: who computes a row changes nothing in it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from thinkroute.engines.embedded import EmbeddedEngine
from thinkroute.engines.embedded.decoder import Decoder
from thinkroute.fleet import shipped
from thinkroute.fleet.bench import draw_prompts
from thinkroute.programs.protocol import Call, Segment
from thinkroute.types import Effort

MEMBERS = {name: shipped.directory(name) for name in ("student", "teacher")}


def call(question: str, model: str = "teacher") -> Call:
    options = {"logprobs": True, "temperature": 0.7, "seed": 3}
    return Call(model, [{"role": "user", "content": question}], Effort("on"), options=options)


async def ask(engine: EmbeddedEngine, request: Call) -> Segment:
    items = [item async for item in engine.generate(request)]
    assert isinstance(items[-1], Segment)
    return items[-1]


async def answers(threads: int) -> list[Segment]:
    engine = EmbeddedEngine(MEMBERS, threads=threads)
    calls = [
        call(question, model) for question in draw_prompts(20, seed=5) for model in ("student", "teacher")
    ]
    segments = await asyncio.gather(*(ask(engine, request) for request in calls))
    await engine.aclose()
    return segments


def test_any_number_of_workers_writes_the_same_tokens() -> None:
    alone, shared = (asyncio.run(answers(threads)) for threads in (1, 3))
    for left, right in zip(alone, shared, strict=True):
        assert left.token_ids == right.token_ids
        assert left.logprobs is not None
        assert right.logprobs is not None
        expected = [entry.logprob for entry in left.logprobs]
        assert [entry.logprob for entry in right.logprobs] == pytest.approx(expected, abs=1e-3)


def test_a_prompt_that_one_worker_knows_is_known_to_all() -> None:
    first, second, third = draw_prompts(3, seed=6)

    async def cached() -> list[int]:
        engine = EmbeddedEngine(MEMBERS, threads=2)
        for question in (first, second, third):
            await ask(engine, call(question))
        again = await asyncio.gather(*(ask(engine, call(question)) for question in (first, second, third)))
        await engine.aclose()
        return [segment.usage.cached_tokens or 0 for segment in again]

    assert min(asyncio.run(cached())) > 10


def test_requests_in_flight_are_spread_over_the_workers() -> None:
    """With one seat for each of two workers, two requests run at once."""

    async def running() -> int:
        engine = EmbeddedEngine(MEMBERS, seats=2, threads=2)
        await engine.start()
        tasks = [asyncio.create_task(ask(engine, call(question))) for question in draw_prompts(2, seed=7)]
        most = 0
        while not all(task.done() for task in tasks):
            most = max(most, engine.running)
            await asyncio.sleep(0)
        await engine.aclose()
        return most

    assert asyncio.run(running()) == 2


def test_more_workers_than_seats_are_not_made() -> None:
    async def answered() -> Segment:
        engine = EmbeddedEngine(MEMBERS, seats=1, threads=4)
        segment = await ask(engine, call(draw_prompts(1, seed=8)[0]))
        await engine.aclose()
        return segment

    assert asyncio.run(answered()).finish == "stop"


def test_twins_share_weights_and_nothing_else() -> None:
    one = Decoder(MEMBERS["student"], seats=1)
    two = Decoder(MEMBERS["student"], seats=1, twin=one)
    ids = np.arange(20)[None]
    start, last = np.zeros(1, dtype=np.int64), np.full(1, 19)
    one.step(0, ids, start, last)
    two.step(0, ids[:, ::-1].copy(), start, last)
    again = one.step(0, ids[:, :1], np.full(1, 20), np.zeros(1, dtype=np.int64))
    fresh = Decoder(MEMBERS["student"], seats=1)
    fresh.step(0, ids, start, last)
    np.testing.assert_array_equal(
        again, fresh.step(0, ids[:, :1], np.full(1, 20), np.zeros(1, dtype=np.int64))
    )
