"""Several workers share the rows: who computes a row changes nothing in it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thinkroute.engines.embedded import EmbeddedEngine
from thinkroute.engines.embedded.decoder import Decoder
from thinkroute.errors import ConfigError, Overloaded
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


class Brake:
    """Holds every step until it is let go: so it is certain who runs and who waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps = 0
        self._passes = threading.Semaphore(0)
        step = Decoder.step

        def braked(decoder: Decoder, *arguments: Any) -> Any:
            self.steps += 1
            self._passes.acquire()
            return step(decoder, *arguments)

        monkeypatch.setattr(Decoder, "step", braked)

    def release(self, steps: int = 100_000) -> None:
        self._passes.release(steps)

    async def reach(self, step: int) -> None:
        """Wait until a step has begun, which then is held."""
        async with asyncio.timeout(30):
            while self.steps < step:  # noqa: ASYNC110 - the worker is a thread, there is no event to await
                await asyncio.sleep(0.001)


@pytest.fixture
def brake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Brake]:
    brake = Brake(monkeypatch)
    yield brake
    brake.release()


def begin(engine: EmbeddedEngine, count: int, model: str = "teacher") -> list[asyncio.Task[Segment]]:
    return [
        asyncio.create_task(ask(engine, call(question, model))) for question in draw_prompts(count, seed=9)
    ]


async def test_who_finds_a_free_seat_is_not_refused_while_a_step_is_under_way(brake: Brake) -> None:
    engine = EmbeddedEngine(MEMBERS, seats=6, queue_limit=2, threads=2)
    await engine.start()
    first = begin(engine, 1)
    await brake.reach(1)
    others = begin(engine, 7)
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="2 requests waiting"):
        await ask(engine, call("Who is the boss of Ann?"))
    brake.release()
    assert [segment.finish for segment in await asyncio.gather(*first, *others)] == ["stop"] * 8
    await engine.aclose()


async def test_a_crowd_before_one_member_keeps_nobody_from_another(brake: Brake) -> None:
    engine = EmbeddedEngine(MEMBERS, seats=2, queue_limit=1, threads=2)
    await engine.start()
    crowd = begin(engine, 3)
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await ask(engine, call("Who is the boss of Ann?"))
    others = begin(engine, 2, "student")
    brake.release()
    assert [segment.owner for segment in await asyncio.gather(*crowd, *others)] == [
        *["teacher"] * 3,
        *["student"] * 2,
    ]
    await engine.aclose()


async def test_a_request_that_was_given_up_while_it_waited_takes_no_place_in_the_queue(brake: Brake) -> None:
    engine = EmbeddedEngine(MEMBERS, seats=1, queue_limit=1)
    await engine.start()
    running, waiting = begin(engine, 2)
    await brake.reach(1)
    waiting.cancel()
    await asyncio.wait([waiting])
    brake.release(2)
    await brake.reach(3)
    next_one = asyncio.create_task(ask(engine, call("Who is the boss of Ann?")))
    await asyncio.sleep(0)
    brake.release()
    assert [(await task).finish for task in (running, next_one)] == ["stop", "stop"]
    await engine.aclose()


async def test_closing_while_it_starts_leaves_no_worker_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, going = threading.Event(), threading.Event()
    load = Decoder.__init__

    def slow(decoder: Decoder, *arguments: Any, **settings: Any) -> None:
        begun.set()
        going.wait()
        load(decoder, *arguments, **settings)

    monkeypatch.setattr(Decoder, "__init__", slow)
    before = set(threading.enumerate())
    engine = EmbeddedEngine(MEMBERS)
    starting = asyncio.create_task(engine.start())
    await asyncio.to_thread(begun.wait)
    closing = asyncio.create_task(engine.aclose())
    await asyncio.sleep(0.01)
    going.set()
    await asyncio.gather(starting, closing)
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if thread.name == "thinkroute-embedded"]


async def test_a_folder_without_a_member_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"member 'nobody': {tmp_path} holds no member"):
        await EmbeddedEngine({"nobody": tmp_path}).start()


@pytest.mark.parametrize(("seats", "threads"), [(0, 1), (1, 0)])
def test_an_engine_without_seats_or_workers_is_refused(seats: int, threads: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        EmbeddedEngine(MEMBERS, seats=seats, threads=threads)
