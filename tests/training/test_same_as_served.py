"""Greedy, every program gives in training's rollouts what it gives in the gateway: text, token ids, owners, legs.

The gateway's half is the whole path of a request (`converse` over the gateway as it comes): read, routed by name, built by
the gateway, run over engines that batch continuously. Training's half runs the same program in lock-step.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pkgutil import iter_modules
from random import Random
from typing import Any

import pytest

from thinkroute import programs
from thinkroute.config import Config
from thinkroute.fleet import shipped
from thinkroute.fleet.tasks import FamilyName, generate
from thinkroute.gateway.assemble import assemble
from thinkroute.gateway.converse import converse
from thinkroute.gateway.routing import answer_floor_tokens
from thinkroute.gateway.runtime import Runtime
from thinkroute.programs.cascade import CascadeLog, StageRun, Verdict, cascade
from thinkroute.programs.driver import Prompt, Run
from thinkroute.programs.effects import Program
from thinkroute.programs.protocol import Segment
from thinkroute.programs.random_relay import random_relay
from thinkroute.programs.relay import RelayLimits, RelayLog, relay
from thinkroute.routers.prior import PriorRouter
from thinkroute.training.rollout import Attempt, roll_out
from thinkroute.training.samplers import EmbeddedSampler
from thinkroute.training.trajectory import Trajectory
from thinkroute.types import FORCED, Arm, Effort, Ledger

MACHINERY = {"asides", "driver", "effects", "protocol", "view"}
"""Modules beside the programs that hold none."""
GREEDY: Mapping[str, Any] = {"temperature": 0}
RELAY, CASCADE = shipped.relay_arm(), shipped.cascade_arm()
SHIPPED = (*shipped.arms(), CASCADE)
BASE = tuple(Arm("direct", ("base",), Effort.parse(effort)) for effort in ("on", "default"))
CUT = tuple(Arm("budgeted", ("base",), Effort("on", tokens)) for tokens in (8, 32))
RANDOM_RELAY = Arm("random_relay", ("student", "teacher"), Effort("on"))
COMPARING = Arm.cascade(
    [Arm("direct", ("student",), Effort("on")), Arm("direct", ("teacher",), Effort("off"))]
)


@dataclass(frozen=True)
class Served:
    """One answer of the gateway."""

    segments: Sequence[Segment]
    ledger: Ledger
    again: Callable[[], Program]
    """Builds the program once more, under the cap the gateway gave it."""


class Compared:
    """A rule that asks the first stage three times, and goes on where it does not say the same each time."""

    def judge(self, runs: Sequence[StageRun], allowed: Collection[int]) -> Verdict:
        if not runs:
            return Verdict(0, None)
        said = {each.text for each in (runs[0].draft, *runs[0].draft.others)}
        return Verdict(1 if len(said) > 1 and 1 in allowed else None, len(runs) - 1)

    def expected_tokens(self, stage: int) -> float:
        return 1.0

    def sample_options(self, stage: int) -> Sequence[Mapping[str, Any]]:
        return [] if stage else [{"temperature": 1.0, "seed": seed} for seed in (1, 2)]


def questions() -> list[str]:
    rng = Random(11)
    families: tuple[FamilyName, ...] = ("arithmetic", "story", "relations", "operators")
    return [generate(rng, family, level, "eval").question for family in families for level in (1, 3, 5)]


def built(runtime: Runtime, arm: Arm, max_tokens: int | None) -> Program:
    """A program of one model, as training builds it."""
    floor, thinking = answer_floor_tokens(runtime.model(arm)), runtime.thinking_format(arm)
    return programs.build(arm, thinking, max_tokens, floor, runtime.decision_point(arm))


async def asked(runtime: Runtime, question: str, *, arm: Arm, stream: bool) -> Served:
    """Answered by an arm that is asked for by its name."""
    messages = [{"role": "user", "content": question}]
    body = {"model": arm.id, "messages": messages, "stream": stream, **GREEDY}
    exchange = await converse(runtime, json.dumps(body).encode(), lambda delta: None)
    route, thinking = exchange.known_route, runtime.thinking_format(arm)
    assert exchange.run is not None
    assert route.runs_as == arm
    assert route.runs_as.program == arm.program

    def again() -> Program:
        if arm.program == "relay":
            return relay(arm, route.max_tokens, thinking, RelayLimits(), RelayLog())
        if not arm.stages or runtime.cascades is None:
            return built(runtime, arm, route.max_tokens)
        rule = runtime.cascades.bind(arm, exchange.known_request.query, route.decision.prices)
        stage = partial(built, runtime)
        return cascade(arm, rule, stage, route.max_tokens, CascadeLog(), live=stream)

    return Served(exchange.run.segments, exchange.ledger, again)


async def run(program: Callable[[Runtime, str], Program], runtime: Runtime, question: str) -> Served:
    """Answered by a program that no request can ask for, on the gateway's driver and engines."""
    prompt = Prompt([{"role": "user", "content": question}], GREEDY)
    made = Run(program(runtime, question), prompt, runtime.engines, {})
    async with aclosing(made.events()) as events:
        async for _ in events:
            pass
    return Served(made.segments, made.ledger, partial(program, runtime, question))


def handed_over_at_random(runtime: Runtime, question: str) -> Program:
    return random_relay(RANDOM_RELAY, 60, 0.2, (1, 3), Random(question))


def compared(runtime: Runtime, question: str, *, live: bool) -> Program:
    return cascade(COMPARING, Compared(), partial(built, runtime), None, CascadeLog(), live=live)


Answer = Callable[[Runtime, str], Awaitable[Served]]


def cases() -> dict[str, tuple[str, Answer]]:
    """What is tried: a name, the program it is for, and how the gateway answers with it.

    `random_relay` is a baseline of the evaluations, which no request can ask for; the shipped cascade takes no samples, and
    seldom goes on.
    """

    def served(arm: Arm, *, stream: bool = False) -> tuple[str, Answer]:
        return arm.program, partial(asked, arm=arm, stream=stream)

    def driven(name: str, program: Callable[[Runtime, str], Program]) -> tuple[str, Answer]:
        return name, partial(run, program)

    return {
        **{arm.id: served(arm) for arm in (*SHIPPED, *BASE, *CUT)},
        "cascade, streamed": served(CASCADE, stream=True),
        "cascade, compared": driven("cascade", partial(compared, live=False)),
        "cascade, compared, live": driven("cascade", partial(compared, live=True)),
        "random relay": driven("random_relay", handed_over_at_random),
    }


CASES = cases()


@pytest.fixture(scope="module")
def answers() -> Mapping[str, Sequence[Served]]:
    """What the gateway says to every question, by case."""

    async def served() -> Mapping[str, Sequence[Served]]:
        config = Config.model_validate({"store": {"path": "memory"}})
        runtime = assemble(config, router=PriorRouter([arm.id for arm in SHIPPED]))
        await runtime.start()
        try:
            return {
                name: await asyncio.gather(*(answer(runtime, text) for text in questions()))
                for name, (_, answer) in CASES.items()
            }
        finally:
            await runtime.aclose()

    return asyncio.run(served())


@pytest.fixture(scope="module")
def sampler() -> EmbeddedSampler:
    others = {name: shipped.directory(name) for name in shipped.all_names() if name != "base"}
    return EmbeddedSampler("base", shipped.directory("base"), others=others)


def rolled_out(served: Sequence[Served], sampler: EmbeddedSampler) -> list[Trajectory]:
    return roll_out(
        [
            Attempt([{"role": "user", "content": text}], each.again(), options=GREEDY)
            for text, each in zip(questions(), served, strict=True)
        ],
        sampler,
    )


def legs(ledger: Ledger) -> list[tuple[str, int, int]]:
    """Calls made at the same time end in any order."""
    return sorted((e.owner, e.usage.prompt_tokens, e.usage.completion_tokens) for e in ledger.entries)


@pytest.mark.parametrize("case", CASES)
def test_rollouts_and_the_gateway_give_identical_text_ids_and_owners(
    case: str, answers: Mapping[str, Sequence[Served]], sampler: EmbeddedSampler
) -> None:
    for served, trajectory in zip(answers[case], rolled_out(answers[case], sampler), strict=True):
        assert [(segment.owner, segment.token_ids) for segment in served.segments] == [
            (span.owner, None if span.owner == FORCED else span.ids) for span in trajectory.spans
        ]
        assert "".join(segment.text for segment in served.segments) == trajectory.text
        assert legs(served.ledger) == legs(trajectory.ledger)


@pytest.mark.parametrize(
    "case", [name for name, (program, _) in CASES.items() if program not in {"adaptive", "cascade"}]
)
def test_where_nothing_is_drafted_the_tokens_paid_for_are_those_of_the_response(
    case: str, answers: Mapping[str, Sequence[Served]], sampler: EmbeddedSampler
) -> None:
    for trajectory in rolled_out(answers[case], sampler):
        for owner in {span.owner for span in trajectory.spans} - {FORCED}:
            paid = [e.usage.completion_tokens for e in trajectory.ledger.entries if e.owner == owner]
            assert sum(paid) == trajectory.tokens_of(owner)


def test_the_questions_make_every_program_go_either_way(answers: Mapping[str, Sequence[Served]]) -> None:
    """Otherwise the programs would be compared on the one path on which they are all alike."""

    def owners(case: str) -> list[set[str]]:
        return [{segment.owner for segment in served.segments} for served in answers[case]]

    def modes(arm: Arm) -> set[bool]:
        return {"</think>" in served.segments[0].text for served in answers[arm.id]}

    assert {"teacher" in each for each in owners(RELAY.id)} == {True, False}
    assert {FORCED in each for each in owners("student@budget=32")} == {True, False}
    assert len({frozenset(each) for each in owners(CASCADE.id)}) > 2
    for case in ("cascade, compared", "cascade, compared, live"):
        assert {len(served.ledger.entries) for served in answers[case]} == {3, 4}
        assert {frozenset(each) for each in owners(case)} == {frozenset({"student"}), frozenset({"teacher"})}
    both_ways = [modes(arm) == {True, False} for arm in SHIPPED if arm.program == "adaptive"]
    assert sum(both_ways) >= 2


def test_every_program_there_is_is_tried() -> None:
    """A new module among the programs has to join `CASES`, or be said to hold no program."""
    modules = {module.name for module in iter_modules(programs.__path__)}
    assert modules - MACHINERY == {program for program, _ in CASES.values()}
    for name in MACHINERY:
        module = importlib.import_module(f"{programs.__name__}.{name}")
        functions = [each for _, each in inspect.getmembers(module, inspect.isfunction)]
        assert all(each.__annotations__.get("return") != "Program" for each in functions)
