"""The relay program over scripted engines: what each model sees, what the caller sees, and what bounds it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkroute.errors import EngineError, EngineInterrupted, EngineUnavailable
from thinkroute.programs.driver import Prompt, Run, run_batch
from thinkroute.programs.protocol import Call, Segment, ThinkingFormat
from thinkroute.programs.relay import (
    TEACHER_FAILED,
    TOO_MANY_COMMANDS,
    RelayLimits,
    RelayLog,
    relay,
)
from thinkroute.testing import Reply, ScriptedEngine
from thinkroute.types import FORCED, Arm, Effort, Price

FORMAT = ThinkingFormat()
ARM = Arm("relay", ("student", "teacher"), Effort("off"))
PROMPT = Prompt([{"role": "user", "content": "two times four plus one"}])
PRICES = {"student": Price(1_000_000, 2_000_000), "teacher": Price(10_000_000, 20_000_000)}


def saying(*parts: str | EngineError, fails_after: int = 1) -> ScriptedEngine:
    """An engine that goes on with these texts, one a call; an error breaks its call off after a few words."""
    said = iter(parts)

    def script(call: Call) -> Reply:
        part = next(said)
        if isinstance(part, EngineError):
            return Reply(call.prefix_text + "one two three ", error=part, error_after_tokens=fails_after)
        # A text that does not end with a line is cut by the cap, one that does ends by itself.
        return Reply(call.prefix_text + part)

    return ScriptedEngine(script)


class Relayed:
    """A relay that was run."""

    def __init__(
        self,
        student: ScriptedEngine,
        teacher: ScriptedEngine,
        limits: RelayLimits = RelayLimits(),  # noqa: B008 - frozen
        max_tokens: int | None = None,
        arm: Arm = ARM,
    ) -> None:
        self.log = RelayLog()
        self.run = Run(
            relay(arm, max_tokens, FORMAT, limits, self.log),
            PROMPT,
            {"student": student, "teacher": teacher},
            PRICES,
        )
        self.shown = ""

    async def done(self) -> Relayed:
        async with aclosing(self.run.events()) as events:
            async for delta in events:
                self.shown += delta.text
        return self

    @property
    def raw(self) -> str:
        return "".join(segment.text for segment in self.run.segments)

    @property
    def outcomes(self) -> list[str]:
        return [each.outcome for each in self.log.hand_overs]


async def test_the_teacher_writes_n_tokens_and_sees_no_command_the_student_keeps_its_own_the_caller_sees_none() -> (
    None
):
    student = saying("2 times 4 is <call>1</call>", "and one is 9")
    teacher = saying("8 exactly because")
    done = await Relayed(student, teacher).done()
    assert done.raw == "2 times 4 is <call>1</call>8 and one is 9"
    assert done.shown == "2 times 4 is 8 and one is 9"
    assert teacher.calls[0].prefix_text == "2 times 4 is "
    assert teacher.calls[0].max_tokens == 1
    assert student.calls[1].prefix_text == "2 times 4 is <call>1</call>8 "
    assert [segment.owner for segment in done.run.segments] == ["student", "teacher", "student"]
    assert (done.run.finish, done.outcomes) == ("stop", ["served"])


async def test_the_ledger_has_every_leg_and_the_log_the_share_asked_and_the_share_had() -> None:
    done = await Relayed(saying("a b <call>3</call>", "c d"), saying("x y")).done()
    assert [entry.owner for entry in done.run.ledger.entries] == ["student", "teacher"]
    hand_over = done.log.hand_overs[0]
    assert (hand_over.asked_tokens, hand_over.granted_tokens, hand_over.tokens, hand_over.leg) == (3, 3, 2, 1)
    assert done.log.teacher_share == pytest.approx(2 / 5)
    assert done.log.teacher_share_asked == pytest.approx(3 / 6)
    assert done.run.ledger.cost_usd == pytest.approx(
        sum(
            PRICES[entry.owner].cost_usd(entry.usage.prompt_tokens, entry.usage.completion_tokens)
            for entry in done.run.ledger.entries
        )
    )


async def test_the_teachers_end_token_ends_the_answer() -> None:
    student = saying("a <call>9</call>", "never said")
    done = await Relayed(student, saying("the end")).done()
    assert (done.shown, done.run.finish, len(student.calls), done.outcomes) == (
        "a the end",
        "stop",
        1,
        ["ended"],
    )


@pytest.mark.parametrize(
    "command", ["<call></call>", "<call>many</call>", "<call>0</call>", "</call>", "<call> </call>"]
)
async def test_a_command_without_a_number_calls_nobody_and_the_student_goes_on(command: str) -> None:
    student, teacher = saying(f"a {command}", "b"), saying()
    done = await Relayed(student, teacher).done()
    assert done.shown.split() == ["a", "b"]
    assert not teacher.calls
    assert student.calls[1].prefix_text == f"a {command}"
    assert done.outcomes == ["empty" if "0" in command else "malformed"]


async def test_a_command_whose_end_a_server_took_away_is_answered_and_closed_in_the_history() -> None:
    """Some servers drop the stop string and say that the text ended by itself."""
    student, teacher = saying("a <call>2", "b"), saying("x y z")
    done = await Relayed(student, teacher).done()
    assert done.shown.split() == ["a", "x", "y", "b"]
    assert teacher.calls[0].max_tokens == 2
    assert "<call>2</call>" in student.calls[1].prefix_text.replace(" ", "")
    assert done.outcomes == ["served"]


def test_an_answer_that_ends_inside_a_command_has_ended_where_the_engine_names_ids() -> None:
    log = RelayLog()
    program = relay(ARM, None, FORMAT, RelayLimits(), log)
    next(program)
    with pytest.raises(StopIteration) as returned:
        program.send(Segment("a <call>2", "student", finish="stop", token_ids=(1, 2, 3)))
    assert returned.value.value.finish == "stop"
    assert not log.hand_overs


async def test_a_fixed_length_overrules_the_number_and_the_log_keeps_both() -> None:
    teacher = saying("1 2 3 4")
    done = await Relayed(saying("a <call>1</call>", "b"), teacher, RelayLimits(fixed_tokens=3)).done()
    assert teacher.calls[0].max_tokens == 3
    [hand_over] = done.log.hand_overs
    assert (hand_over.asked_tokens, hand_over.granted_tokens, hand_over.tokens) == (1, 3, 3)


async def test_n_is_clamped_to_the_limit_and_to_what_the_cap_leaves() -> None:
    teacher = saying("1 2 3 4 5 6", "1 2 3 4 5 6")
    student = saying("a <call>5000</call>", "b <call>5000</call>", "c")
    done = await Relayed(student, teacher, RelayLimits(most_tokens_per_call=4), max_tokens=9).done()
    assert [call.max_tokens for call in teacher.calls] == [4, 1]
    assert done.run.ledger.usage.completion_tokens == 9
    assert done.run.finish == "length"


async def test_after_the_last_call_the_student_writes_to_its_end_and_its_commands_stay_hidden() -> None:
    student = saying("a <call>1</call>", "b <call>1</call> c <call>1</call>")
    done = await Relayed(student, saying("X Y"), RelayLimits(most_calls=1)).done()
    assert student.calls[0].until_text == "</call>"
    assert student.calls[1].until_text is None
    assert done.shown.split() == ["a", "X", "b", "c"]
    assert done.log.notes == [TOO_MANY_COMMANDS]


async def test_without_calls_the_teacher_is_never_asked() -> None:
    teacher = saying()
    done = await Relayed(saying("a <call>1</call> b"), teacher, RelayLimits(most_calls=0)).done()
    assert done.shown.split() == ["a", "b"]
    assert not teacher.calls


@pytest.mark.parametrize("words", [0, 1, 2])
async def test_a_teacher_that_breaks_off_leaves_its_words_and_the_student_goes_on_alone(words: int) -> None:
    student = saying("a <call>9</call>", "b <call>2</call> c")
    teacher = saying(EngineInterrupted("gone"), fails_after=words)
    done = await Relayed(student, teacher).done()
    assert done.shown.split() == ["a", *["one", "two"][:words], "b", "c"]
    assert done.run.finish == "stop"
    assert (done.outcomes, done.log.hand_overs[0].error) == (["failed"], "upstream_interrupted")
    assert done.log.notes == [TEACHER_FAILED]
    assert len(teacher.calls) == 1, "a teacher that failed is not asked again"
    assert [entry.error for entry in done.run.ledger.entries] == [None, "upstream_interrupted", None]
    assert student.calls[1].prefix_text.replace("<call>9</call>", "") == "a " + "".join(
        ["one ", "two "][:words]
    )


async def test_a_teacher_that_hangs_is_left_after_its_time() -> None:
    teacher = ScriptedEngine("x y", token_delay_s=60)
    done = await Relayed(saying("a <call>9</call>", "b"), teacher, RelayLimits(teacher_timeout_s=0.05)).done()
    assert done.shown.split() == ["a", "b"]
    assert done.log.hand_overs[0].error == "upstream_timeout"
    assert teacher.active == 0
    assert teacher.closed_early == 1


async def test_a_student_that_fails_fails_the_request() -> None:
    relayed = Relayed(saying("a <call>1</call>", EngineUnavailable("down")), saying("X Y"))
    with pytest.raises(EngineUnavailable):
        await relayed.done()
    assert relayed.shown.split() == ["a", "X", "one"], "what was shown before stays valid"


async def test_commands_work_inside_the_thinking_block_and_the_thought_is_streamed_as_such() -> None:
    def going_on(*parts: str) -> ScriptedEngine:
        said = iter(parts)
        return ScriptedEngine(
            lambda call: Reply("9", call.prefix_text.removeprefix(FORMAT.open_text) + next(said))
        )

    student = going_on("2 times 4 is <call>1</call> unsaid", "so nine")
    relayed = Relayed(student, going_on("8 more"), arm=Arm("relay", ARM.models, Effort("on")))
    texts = {"reasoning": "", "answer": ""}
    async with aclosing(relayed.run.events()) as events:
        async for delta in events:
            texts[delta.channel] += delta.text
    assert texts["reasoning"].split() == ["2", "times", "4", "is", "8", "so", "nine"]
    assert texts["answer"] == "9"
    assert student.calls[1].prefix_text == "<think>\n2 times 4 is <call>1</call> 8 "
    assert not student.calls[1].thinking_closed


def _in_batch(
    student: Callable[[Call], str], teacher: Callable[[Call], str]
) -> tuple[tuple[Segment, ...], RelayLog]:
    log = RelayLog()
    engines = {
        "student": ScriptedEngine(lambda call: Reply(student(call))),
        "teacher": ScriptedEngine(lambda call: Reply(teacher(call))),
    }

    async def one(call: Call) -> Segment:
        async with aclosing(engines[call.model].generate(call)) as items:
            (segment,) = [item async for item in items if isinstance(item, Segment)]
            return segment

    def generate(calls: Sequence[Call]) -> list[Segment]:
        return [asyncio.run(one(call)) for call in calls]

    (done,) = run_batch([relay(ARM, 40, FORMAT, RelayLimits(most_calls=3), log)], [PROMPT], generate)
    return done[0], log


WORDS = st.lists(
    st.sampled_from(["a ", "<call>1</call>", "<call>2</call> ", "b ", "<call>x</call>", "</call>"]),
    max_size=12,
)


@given(WORDS, WORDS)
def test_both_drivers_agree_the_caps_hold_and_no_tag_is_shown(student: list[str], teacher: list[str]) -> None:
    """Whatever the two models write, every leg of it."""

    def script(words: list[str]) -> Callable[[Call], str]:
        return lambda call: call.prefix_text + " ".join(words[len(call.prefix) :]) + "."

    relayed = Relayed(
        ScriptedEngine(lambda call: Reply(script(student)(call))),
        ScriptedEngine(lambda call: Reply(script(teacher)(call))),
        RelayLimits(most_calls=3),
        40,
    )
    asyncio.run(relayed.done())
    segments, log = _in_batch(script(student), script(teacher))
    assert [(each.text, each.owner) for each in segments] == [
        (each.text, each.owner) for each in relayed.run.segments
    ]
    assert log == relayed.log
    assert relayed.run.ledger.usage.completion_tokens <= 40
    owners = [entry.owner for entry in relayed.run.ledger.entries]
    assert owners.count("student") <= 4
    assert owners.count("teacher") <= 3
    assert "call>" not in relayed.shown
    assert all(each.owner in ("student", "teacher", FORCED) for each in segments)
