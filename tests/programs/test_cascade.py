"""What the cascade program promises, whatever its rule: one answer shown, caps kept, failures answered."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkroute.errors import EngineUnavailable
from thinkroute.programs import build
from thinkroute.programs.cascade import CAPPED, FELL_BACK, CascadeLog, StageRun, Verdict, cascade
from thinkroute.programs.driver import Delta, Prompt, Run, run_batch
from thinkroute.programs.effects import Program
from thinkroute.programs.protocol import Call, Segment, ThinkingFormat
from thinkroute.testing import Reply, ScriptedEngine
from thinkroute.types import Arm, Effort, Price

FORMAT = ThinkingFormat()
PROMPT = Prompt([{"role": "user", "content": "two plus two"}])
PRICES = {name: Price(1_000_000, 2_000_000) for name in "abc"}
ARM = Arm.cascade([Arm("direct", (name,), Effort("off")) for name in "abc"])
DOWN = Reply("never", error=EngineUnavailable("down"))
BROKEN = Reply("never said whole", error=EngineUnavailable("broke"), error_after_tokens=2)


class Wants:
    """A rule that wants these stages, in order, and likes later answers better."""

    def __init__(self, *stages: int, tokens: float = 3.0, samples: int = 0) -> None:
        self._stages, self._tokens, self._samples = stages, tokens, samples

    def judge(self, runs: Sequence[StageRun], allowed: Collection[int]) -> Verdict:
        usable = [place for place, run in enumerate(runs) if run.usable]
        wanted = [stage for stage in self._stages if stage in allowed]
        if not usable and not wanted:
            wanted = sorted(allowed)
        best = usable[-1] if usable else None
        return Verdict(wanted[0] if wanted else None, best, quality=0.5, features={"cut": 0.0})

    def expected_tokens(self, stage: int) -> float:
        return self._tokens

    def sample_options(self, stage: int) -> Sequence[Mapping[str, Any]]:
        return [{"seed": number} for number in range(self._samples)]


def stage_program(arm: Arm, max_tokens: int | None) -> Program:
    return build(arm, FORMAT, max_tokens)


async def run(
    rule: Wants,
    replies: Mapping[str, Reply | str],
    *,
    max_tokens: int | None = None,
    live: bool = False,
    prompt: Prompt = PROMPT,
) -> tuple[Run, str, CascadeLog, dict[str, ScriptedEngine]]:
    engines = {name: ScriptedEngine(replies[name]) for name in replies}
    log = CascadeLog()
    done = Run(cascade(ARM, rule, stage_program, max_tokens, log, live=live), prompt, engines, PRICES)
    deltas: list[Delta] = []
    async with aclosing(done.events()) as events:
        deltas += [delta async for delta in events]
    return done, "".join(delta.text for delta in deltas if delta.channel == "answer"), log, engines


async def test_only_the_accepted_answer_is_shown_and_every_leg_is_paid() -> None:
    done, text, log, engines = await run(Wants(0, 2), {"a": "from a", "b": "from b", "c": "from c"})
    assert (text, log.accepted) == ("from c", "c@off")
    assert [entry.owner for entry in done.ledger.entries] == ["a", "c"]
    assert not engines["b"].calls
    assert [stage.outcome for stage in log.stages] == ["rejected", "accepted"]
    assert "".join(segment.text for segment in done.segments) == "from c"
    costs = [stage.cost_usd or 0.0 for stage in log.stages]
    assert sum(costs) == pytest.approx(done.ledger.cost_usd)


async def test_drafts_ask_for_log_probabilities_and_the_caller_never_sees_them() -> None:
    done, _, _, engines = await run(Wants(0), {"a": "from a", "b": "", "c": ""})
    assert engines["a"].calls[0].options == {"logprobs": True}
    assert all(segment.logprobs is None for segment in done.segments)


async def test_a_failing_later_stage_gives_the_earlier_answer_and_says_so() -> None:
    for live in (False, True):
        _, text, log, _ = await run(Wants(0, 2), {"a": "from a", "b": "", "c": DOWN}, live=live)
        assert (text, log.accepted, log.notes) == ("from a", "a@off", [FELL_BACK])
        assert log.stages[1].error == EngineUnavailable.code


async def test_a_failing_first_stage_is_skipped() -> None:
    _, text, log, _ = await run(Wants(0, 1), {"a": DOWN, "b": "from b", "c": ""})
    assert (text, [stage.outcome for stage in log.stages]) == ("from b", ["failed", "accepted"])


async def test_a_stage_jumped_over_answers_when_the_later_one_fails() -> None:
    _, text, log, _ = await run(Wants(2), {"a": "from a", "b": "from b", "c": DOWN})
    assert text in {"from a", "from b"}
    assert log.stages[0].outcome == "failed"


async def test_when_every_stage_fails_the_failure_is_the_callers() -> None:
    with pytest.raises(EngineUnavailable):
        await run(Wants(0, 1, 2), {"a": DOWN, "b": DOWN, "c": DOWN})


async def test_a_live_stage_that_broke_after_its_first_word_cannot_be_taken_back() -> None:
    with pytest.raises(EngineUnavailable):
        await run(Wants(0, 2), {"a": "from a", "b": "", "c": BROKEN}, live=True)
    _, text, _, _ = await run(Wants(0, 2), {"a": "from a", "b": "", "c": BROKEN}, live=False)
    assert text == "from a"


async def test_a_live_last_stage_streams_as_it_comes() -> None:
    engines = {name: ScriptedEngine("one two three") for name in "abc"}
    program = cascade(ARM, Wants(2), stage_program, None, CascadeLog(), live=True)
    done = Run(program, PROMPT, engines, PRICES)
    async with aclosing(done.events()) as events:
        assert [delta.text async for delta in events] == ["one ", "two ", "three"]
    assert engines["c"].calls[0].stream


async def test_a_cap_that_leaves_no_room_ends_the_cascade_and_says_so() -> None:
    rule = Wants(0, 1, 2, tokens=3.0)
    done, text, log, _ = await run(rule, {"a": "one two three", "b": "four", "c": "five"}, max_tokens=5)
    assert (text, log.notes) == ("one two three", [CAPPED])
    assert done.ledger.usage.completion_tokens <= 5


async def test_samples_are_drafts_of_the_same_stage_and_are_paid() -> None:
    done, _, log, engines = await run(Wants(0, samples=2), {"a": "x y", "b": "", "c": ""})
    assert [call.options.get("seed") for call in engines["a"].calls] == [None, 0, 1]
    assert log.stages[0].generated_tokens == done.ledger.usage.completion_tokens == 6


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 2), max_size=3),
    st.integers(1, 12),
    st.floats(1, 6),
    st.integers(0, 2),
    st.booleans(),
)
async def test_no_cascade_generates_more_than_its_cap(
    wanted: list[int], cap: int, tokens: float, samples: int, live: bool
) -> None:
    replies = {"a": "one two three", "b": "one two three four", "c": "one two three four five six"}
    rule = Wants(*wanted, tokens=tokens, samples=samples)
    done, _, _, _ = await run(rule, replies, max_tokens=cap, live=live)
    assert done.ledger.usage.completion_tokens <= cap


def test_both_drivers_agree() -> None:
    def generate(calls: Sequence[Call]) -> list[Segment]:
        return [Segment(f"from {call.model}", call.model) for call in calls]

    programs = [
        cascade(ARM, Wants(*wanted), stage_program, None, CascadeLog(), live=False)
        for wanted in ((0,), (0, 2), (1,))
    ]
    results = run_batch(programs, [PROMPT] * 3, generate)
    assert ["".join(segment.text for segment in segments) for segments, _ in results] == [
        "from a",
        "from c",
        "from b",
    ]


async def test_leaving_early_ends_every_call() -> None:
    engines = {name: ScriptedEngine("one two three four", token_delay_s=0.01) for name in "abc"}
    done = Run(cascade(ARM, Wants(2), stage_program, None, CascadeLog(), live=True), PROMPT, engines, PRICES)
    async with aclosing(done.events()) as events:
        await anext(events)
    assert (engines["c"].active, engines["c"].closed_early) == (0, 1)
    assert done.ledger.entries[0].error == "cancelled"
