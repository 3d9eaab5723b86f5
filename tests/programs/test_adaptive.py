"""The dial: a threshold on the model's own decision, on real members and on scripted ones."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from random import Random

import pytest

from thinkroute.catalog import family_named
from thinkroute.engines.embedded.batch import BatchEngine
from thinkroute.errors import ConfigError
from thinkroute.fleet import shipped
from thinkroute.fleet.tasks import FamilyName, generate
from thinkroute.programs import build
from thinkroute.programs.adaptive import DECISION_UNKNOWN, DecisionPoint, DialLog, adaptive
from thinkroute.programs.budgeted import budgeted
from thinkroute.programs.direct import direct
from thinkroute.programs.driver import Prompt, Run, run_batch
from thinkroute.programs.effects import Program
from thinkroute.programs.protocol import Segment, ThinkingFormat
from thinkroute.testing import Reply, ScriptedEngine
from thinkroute.types import FORCED, Arm, Effort

FAMILY = family_named("thinkroute-fleet-thinking")
FORMAT = ThinkingFormat(FAMILY.open_text, FAMILY.close_text, FAMILY.stop_text)
POINT = DecisionPoint(FAMILY.direct_text, FAMILY.direct_token)
THRESHOLDS = (0.0, 0.02, 0.1, 0.3, 0.5, 0.9, 1.0)


@pytest.fixture(scope="module")
def engine() -> BatchEngine:
    return BatchEngine({"base": shipped.directory("base")})


@pytest.fixture(scope="module")
def questions() -> list[str]:
    rng = Random(3)
    families: tuple[FamilyName, ...] = ("arithmetic", "story")
    return [generate(rng, name, level, "eval").question for name in families for level in (1, 2, 3) * 3]


def answers(
    engine: BatchEngine, programs: Sequence[Program], questions: Sequence[str]
) -> list[tuple[Segment, ...]]:
    prompts = [
        Prompt([{"role": "user", "content": text}], {"temperature": 0}, stream=False) for text in questions
    ]
    return [segments for segments, _ in run_batch(programs, prompts, engine.generate_batch)]


def dialled(
    engine: BatchEngine, questions: Sequence[str], threshold: float, max_tokens: int | None = None
) -> tuple[list[DialLog], list[tuple[Segment, ...]]]:
    logs = [DialLog(threshold) for _ in questions]
    programs = [adaptive("base", max_tokens, FORMAT, POINT, 16, log) for log in logs]
    return logs, answers(engine, programs, questions)


def message(segments: Sequence[Segment]) -> str:
    return "".join(segment.text for segment in segments)


def test_threshold_0_is_the_direct_program_without_thinking(
    engine: BatchEngine, questions: list[str]
) -> None:
    """Token by token behind the empty block, which the prompt holds in one case and the message in the other."""
    logs, runs = dialled(engine, questions, 0)
    plain = answers(engine, [direct("base", Effort("off"), None) for _ in questions], questions)
    assert [run[-1].token_ids for run in runs] == [run[-1].token_ids for run in plain]
    assert all(log.answered_at_once and log.p_direct is None for log in logs)


def test_threshold_1_is_the_direct_program_that_thinks(engine: BatchEngine, questions: list[str]) -> None:
    logs, runs = dialled(engine, questions, 1)
    plain = answers(engine, [direct("base", Effort("on"), None) for _ in questions], questions)
    opened = [place for place, run in enumerate(plain) if message(run).startswith(FORMAT.open_text + "\n")]
    assert len(opened) < len(questions)
    for place, (own, other) in enumerate(zip(runs, plain, strict=True)):
        if place not in opened:  # left to itself the member may also answer at once
            assert message(own) == message(other)
            assert own[-1].token_ids == (other[-1].token_ids or ())[2:]
    assert not any(log.answered_at_once for log in logs)


def test_under_a_cap_it_thinks_like_the_budgeted_program(engine: BatchEngine, questions: list[str]) -> None:
    """The block's opening is forced here and generated there, two tokens more."""
    _, runs = dialled(engine, questions, 1, max_tokens=40)
    plain = answers(engine, [budgeted("base", Effort("on"), 42, FORMAT, 16) for _ in questions], questions)
    assert [message(run) for run in runs] == [message(run) for run in plain]
    assert all(sum(s.usage.completion_tokens for s in run if s.owner != FORCED) <= 40 for run in runs)


def test_a_cap_without_room_for_thinking_answers_at_once(engine: BatchEngine, questions: list[str]) -> None:
    logs, runs = dialled(engine, questions[:2], 0.9, max_tokens=1)
    assert all(log.answered_at_once for log in logs)
    assert all(run[-1].usage.completion_tokens == 1 for run in runs)


def test_the_share_answered_at_once_never_grows_with_the_threshold(
    engine: BatchEngine, questions: list[str]
) -> None:
    """And every answer is one of the two forced ones: the dial chooses, it changes nothing else."""
    at_once = [message(run) for run in dialled(engine, questions, 0)[1]]
    thought = [message(run) for run in dialled(engine, questions, 1)[1]]
    previous = [True] * len(questions)
    shares: list[int] = []
    for threshold in THRESHOLDS:
        logs, runs = dialled(engine, questions, threshold)
        chosen = [bool(log.answered_at_once) for log in logs]
        assert all(before or not now for before, now in zip(previous, chosen, strict=True))
        assert [message(run) for run in runs] == [
            direct_text if now else thinking_text
            for now, direct_text, thinking_text in zip(chosen, at_once, thought, strict=True)
        ]
        previous = chosen
        shares.append(sum(chosen))
    assert shares[0] == len(questions) > shares[3] > shares[-1] == 0


def test_the_probability_is_that_of_the_deciding_token(engine: BatchEngine, questions: list[str]) -> None:
    logs, _ = dialled(engine, questions, 0.5)
    options = {"temperature": 0, "logprobs": True, "top_logprobs": 20}
    prompts = [Prompt([{"role": "user", "content": text}], options, stream=False) for text in questions]
    programs = [direct("base", Effort("on"), 2) for _ in questions]
    for log, (segments, _) in zip(logs, run_batch(programs, prompts, engine.generate_batch), strict=True):
        assert segments[0].logprobs is not None
        decided = segments[0].logprobs[1]
        likely = {decided.token: decided.logprob, **dict(decided.top)}
        assert log.p_direct == pytest.approx(2.718281828459045 ** likely["\n\n"], rel=1e-5)


async def test_an_engine_without_logprobs_thinks_and_the_log_says_why() -> None:
    scripted = ScriptedEngine(Reply("four", reasoning="two and two"))
    log = DialLog(0.5)
    program = adaptive("m", None, ThinkingFormat(), DecisionPoint("<think>\n\n</think>\n\n", "\n\n"), 16, log)
    run = Run(program, Prompt([{"role": "user", "content": "2 + 2"}]), {"m": scripted}, {})
    async with aclosing(run.events()) as events:
        channels = {delta.channel async for delta in events}
    assert (log.answered_at_once, log.p_direct, log.notes) == (False, None, [DECISION_UNKNOWN])
    assert channels == {"reasoning", "answer"}


def test_a_decision_point_splits_its_text_at_the_token() -> None:
    assert POINT.before == "<think>"
    r1 = family_named("deepseek-r1")
    assert DecisionPoint(r1.direct_text, r1.direct_token).before == "<think>\n"


def test_a_model_that_does_not_decide_is_refused() -> None:
    arm = Arm("adaptive", ("m",), Effort.parse("adaptive=0.5"))
    with pytest.raises(ConfigError, match="decide for itself"):
        build(arm, FORMAT, None)


@pytest.mark.parametrize("text", ["adaptive=0", "adaptive=0.5", "adaptive=0.05", "adaptive=1"])
def test_a_threshold_reads_back(text: str) -> None:
    assert str(Effort.parse(text)) == text
    assert Arm("adaptive", ("m",), Effort.parse(text)).id == f"m@{text}"


@pytest.mark.parametrize("text", ["adaptive=1.5", "adaptive=", "adaptive=-0.1", "adaptive=x"])
def test_a_wrong_threshold_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="adaptive=<threshold"):
        Effort.parse(text)
