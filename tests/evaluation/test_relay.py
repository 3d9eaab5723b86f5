"""Relays judged beside their baselines, over scripted engines whose right answers are known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkroute.evaluation.relay import Answers, Bench, Comparison, Question, compare
from thinkroute.programs.driver import Prompt, Run
from thinkroute.programs.protocol import Call, Chunk, Segment, ThinkingFormat, TokenLogprob
from thinkroute.programs.random_relay import probability_for, random_relay
from thinkroute.programs.relay import RelayLimits
from thinkroute.testing import Reply, ScriptedEngine
from thinkroute.types import Arm, Effort, Price

ARM = Arm("relay", ("student", "teacher"), Effort("off"))
PRICES = {"student": Price(1, 4), "teacher": Price(8, 32)}


def answers(
    policy: str, quality: Sequence[float], student: Sequence[float], teacher: Sequence[float]
) -> Answers:
    cost = np.array(student) + 8 * np.array(teacher)
    sureness = -np.arange(len(quality), 0, -1.0)
    return Answers(
        policy,
        np.array(quality),
        np.array(student),
        np.array(teacher),
        cost,
        np.zeros(len(quality)),
        sureness,
    )


TABLE = Comparison(
    answers("student", [0, 1, 0, 1], [10, 10, 10, 10], [0, 0, 0, 0]),
    answers("teacher", [1, 1, 0, 1], [0, 0, 0, 0], [10, 10, 10, 10]),
)


def test_random_queries_lie_on_the_line_between_student_and_teacher() -> None:
    line = TABLE.random_queries(0.25)
    assert (line.accuracy, line.teacher_share, line.tokens) == (
        pytest.approx(0.5625),
        0.25,
        pytest.approx(10),
    )
    assert line.gap_recovered == pytest.approx(0.25)


def test_a_cascade_pays_for_both_answers_and_keeps_within_the_share() -> None:
    line = TABLE.cascade(0.2)  # the least sure question, the first, costs 10 of 50 tokens
    assert (line.accuracy, line.teacher_share, line.tokens, line.calls) == (
        0.75,
        pytest.approx(0.2),
        12.5,
        0.25,
    )
    assert TABLE.cascade(0.19).teacher_share == 0


def test_the_oracle_spends_only_where_only_the_teacher_is_right() -> None:
    line = TABLE.oracle_queries()
    assert (line.accuracy, line.calls, line.gap_recovered) == (0.75, 0.25, 1.0)


@settings(deadline=None, max_examples=12)
@given(st.floats(0.02, 0.6), st.integers(1, 5))
def test_random_hand_overs_give_the_teacher_the_share_that_was_asked(share: float, length: int) -> None:
    def endless(call: Call) -> Reply:
        return Reply(call.prefix_text + "word " * 500)

    engines = {name: ScriptedEngine(endless) for name in ARM.models}

    async def tokens() -> dict[str, int]:
        program = random_relay(ARM, 400, probability_for(share, length), [length], Random(1))
        run = Run(program, Prompt([{"role": "user", "content": "?"}], stream=False), engines, {})
        async for _ in run.events():
            pass
        owners = [segment.owner for segment in run.segments]
        assert all(before != after for before, after in pairwise(owners))
        return {
            name: sum(entry.usage.completion_tokens for entry in run.ledger.entries if entry.owner == name)
            for name in ARM.models
        }

    counted = asyncio.run(tokens())
    assert sum(counted.values()) == 400
    share = min(share, length / (length + 1))
    spread = 4 * (length / (400 * share * (1 - share))) ** 0.5  # four deviations of a renewal process, about
    assert counted["teacher"] / 400 == pytest.approx(share, rel=spread)


async def test_a_relay_that_calls_where_it_must_beats_random_places_at_equal_share() -> None:
    """The student knows every word but the key; it calls exactly there."""
    questions = [Question(f"q{place}", lambda text: float("key" in text)) for place in range(30)]

    def student(call: Call) -> Reply:
        said = call.prefix_text
        if not said:
            wanted = "a b c <call>1</call> d" if call.until_text else "a b c wrong d e f g h i j k l"
            return Reply(wanted)
        return Reply(said + ("e f g h i j k l" if "call" in said else "x " * 20))

    def teacher(call: Call) -> Reply:
        said = call.prefix_text
        if not said:
            return Reply("a b c key d e f")
        return Reply(said + ("key m n" if said.split() == ["a", "b", "c"] else "m n o"))

    bench = Bench(
        ARM,
        {"student": _Sure(student), "teacher": ScriptedEngine(teacher)},
        PRICES,
        questions,
        ThinkingFormat(),
    )
    lines, relayed = await compare(bench, RelayLimits(), fixed=[2], seed=3)
    table = {line.policy: line for line in lines}
    assert table["relay"].accuracy == table["relay"].gap_recovered == 1.0
    assert table["relay"].calls == 1
    assert relayed.teacher_share == pytest.approx(1 / 13)
    assert table["student"].accuracy == table["relay, no teacher"].accuracy == 0
    assert table["random tokens"].accuracy < 0.5
    assert table["random queries"].accuracy < 0.2
    assert table["cascade"].accuracy < 0.2
    assert table["relay, always 2"].teacher_share > table["relay"].teacher_share
    assert table["relay"].cost_usd < table["teacher"].cost_usd * 3


class _Sure(ScriptedEngine):
    """A scripted engine whose every token is equally sure."""

    async def generate(self, call: Call) -> AsyncGenerator[Chunk | Segment, None]:
        async for item in super().generate(call):
            sure = isinstance(item, Segment) and call.options.get("logprobs")
            yield replace(item, logprobs=(TokenLogprob("a", -1.0),)) if sure else item
