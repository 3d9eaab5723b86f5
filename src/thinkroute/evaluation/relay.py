"""Judging relays beside what else the same teacher tokens could buy: accuracy, teacher share, tokens, dollars.

Owns running one policy over many questions through the gateway's own programs, and the baselines at equal teacher share:

- `random tokens`: the teacher takes over at random places, for as long as the relay's hand-overs were;
- `random queries`: whole questions go to the teacher at random. An expectation, not a sample: the line between both;
- `cascade`: the student answers first, and the least sure answers are given to the teacher;
- `oracle queries`: the teacher gets exactly the questions that only it answers. A bound, not a method.

Query-level policies pay for whole answers, so they follow from one run of each model. The teacher's share is the share of
all generated tokens, pooled over questions.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from random import Random
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinkroute.programs.direct import direct
from thinkroute.programs.driver import Prompt, Run
from thinkroute.programs.effects import Program
from thinkroute.programs.protocol import Engine, ThinkingFormat
from thinkroute.programs.random_relay import probability_for, random_relay
from thinkroute.programs.relay import RelayLimits, RelayLog, relay
from thinkroute.types import Arm, Price

Floats = NDArray[np.float64]
_CONCURRENCY = 64
_Z_95 = 1.96


@dataclass(frozen=True, slots=True)
class Question:
    """A question whose answers can be graded."""

    text: str
    grade: Callable[[str], float]
    """Quality in [0, 1] of a raw message without commands, thinking tags included."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What one policy did with every question."""

    policy: str
    quality_Q: Floats
    student_tokens_Q: Floats
    teacher_tokens_Q: Floats
    cost_usd_Q: Floats
    calls_Q: Floats
    """Hand-overs to the teacher."""
    sureness_Q: Floats | None = None
    """Mean log-probability of the tokens, where it was asked for."""
    logs: tuple[RelayLog, ...] = ()

    @property
    def teacher_share(self) -> float:
        """The teacher's part of all generated tokens."""
        return _share(self.teacher_tokens_Q.sum(), self.student_tokens_Q.sum())

    @property
    def lengths(self) -> list[int]:
        """How long the hand-overs were."""
        return [each.tokens for log in self.logs for each in log.hand_overs if each.tokens]


@dataclass(frozen=True, slots=True)
class Line:
    """One policy in the report. Token counts and dollars are means per question."""

    policy: str
    accuracy: float
    half_width: float
    """Of the 95 % interval of the accuracy; 0 for an expectation."""
    teacher_share: float
    tokens: float
    cost_usd: float
    calls: float
    gap_recovered: float | None
    """Part of the distance from student to teacher; None where the teacher is no better."""


@dataclass(frozen=True, slots=True)
class Bench:
    """A student and a teacher behind engines, and the questions put to them."""

    arm: Arm
    """The relay: student and teacher at one effort."""
    engines: Mapping[str, Engine]
    prices: Mapping[str, Price]
    questions: Sequence[Question]
    thinking: ThinkingFormat
    max_tokens: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    untrained: str = ""
    """Who stands alone and hands over at random, where the arm's student learned to call; empty: the student itself."""

    async def relay(self, policy: str, limits: RelayLimits) -> Answers:
        """Every question to the relay."""
        logs = [RelayLog() for _ in self.questions]
        programs = [relay(self.arm, self.max_tokens, self.thinking, limits, log) for log in logs]
        return await self._ask(policy, programs, logs)

    async def alone(self, model: str, *, sureness: bool = False) -> Answers:
        """Every question to one model."""
        programs = [direct(model, self.arm.effort, self.max_tokens) for _ in self.questions]
        return await self._ask(model, programs, extra={"logprobs": True} if sureness else {})

    async def random_tokens(self, share: float, lengths: Sequence[int], seed: int) -> Answers:
        """Every question to a relay that hands over at random, aiming at this teacher share."""
        probability = probability_for(share, fmean(lengths))
        student, teacher = self.arm.models
        arm = replace(self.arm, models=(self.untrained or student, teacher))
        programs = [
            random_relay(arm, self.max_tokens, probability, lengths, Random(f"{seed}/{place}"))  # noqa: S311
            for place in range(len(self.questions))
        ]
        return await self._ask("random tokens", programs)

    async def _ask(
        self,
        policy: str,
        programs: Sequence[Program],
        logs: Sequence[RelayLog] = (),
        extra: Mapping[str, Any] | None = None,
    ) -> Answers:
        slots = asyncio.Semaphore(_CONCURRENCY)

        async def one(question: Question, program: Program) -> tuple[float, ...]:
            prompt = Prompt(
                [{"role": "user", "content": question.text}], {**self.options, **(extra or {})}, stream=False
            )
            run = Run(program, prompt, self.engines, self.prices)
            async with slots, aclosing(run.events()) as events:
                async for _ in events:
                    pass
            return self._measured(question, run)

        rows = await asyncio.gather(*map(one, self.questions, programs))
        quality_Q, student_Q, teacher_Q, cost_Q, calls_Q, sureness_Q = np.array(rows, dtype=np.float64).T
        sure = None if np.isnan(sureness_Q).any() else sureness_Q
        return Answers(policy, quality_Q, student_Q, teacher_Q, cost_Q, calls_Q, sure, tuple(logs))

    def _measured(self, question: Question, run: Run) -> tuple[float, ...]:
        teacher = self.arm.models[1]
        legs = [(entry.owner == teacher, entry.usage.completion_tokens) for entry in run.ledger.entries]
        text = "".join(segment.text for segment in run.segments)
        logprobs = [token.logprob for segment in run.segments for token in segment.logprobs or ()]
        cost_usd = run.ledger.cost_usd
        return (
            question.grade(text),
            sum(tokens for is_teacher, tokens in legs if not is_teacher),
            sum(tokens for is_teacher, tokens in legs if is_teacher),
            math.nan if cost_usd is None else cost_usd,
            sum(is_teacher for is_teacher, _ in legs),
            fmean(logprobs) if logprobs else math.nan,
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Relays beside the baselines, all on the same questions."""

    student: Answers
    """Alone, its sureness noted."""
    teacher: Answers

    def line(self, answers: Answers) -> Line:
        """A policy that was run."""
        quality = float(answers.quality_Q.mean())
        deviation = float(answers.quality_Q.std(ddof=1)) if len(answers.quality_Q) > 1 else 0.0
        return Line(
            answers.policy,
            quality,
            _Z_95 * deviation / math.sqrt(len(answers.quality_Q)),
            answers.teacher_share,
            float((answers.student_tokens_Q + answers.teacher_tokens_Q).mean()),
            float(answers.cost_usd_Q.mean()),
            float(answers.calls_Q.mean()),
            self._recovered(quality),
        )

    def random_queries(self, share: float) -> Line:
        """Whole questions to the teacher at random, so many that it writes this share of the tokens."""
        student, teacher = self.student.student_tokens_Q.mean(), self.teacher.teacher_tokens_Q.mean()
        part = share * student / (teacher * (1.0 - share) + share * student)
        mixed: list[float] = [
            float((1.0 - part) * mine.mean() + part * theirs.mean())
            for mine, theirs in (
                (self.student.quality_Q, self.teacher.quality_Q),
                (self.student.student_tokens_Q, self.teacher.teacher_tokens_Q),
                (self.student.cost_usd_Q, self.teacher.cost_usd_Q),
            )
        ]
        return Line(
            "random queries", mixed[0], 0.0, share, mixed[1], mixed[2], float(part), self._recovered(mixed[0])
        )

    def cascade(self, share: float) -> Line:
        """The least sure answers to the teacher, while it writes at most this share of the tokens."""
        if self.student.sureness_Q is None:
            raise ValueError("the student was run without log-probabilities, so that its sureness is unknown")
        return self.line(
            self._escalated("cascade", np.argsort(self.student.sureness_Q, kind="stable"), share)
        )

    def oracle_queries(self, share: float = 1.0) -> Line:
        """The questions that only the teacher answers to the teacher, while it writes at most this share."""
        gain_Q = self.teacher.quality_Q - self.student.quality_Q
        order_Q = np.argsort(-gain_Q, kind="stable")
        return self.line(self._escalated("oracle queries", order_Q[gain_Q[order_Q] > 0], share, first=False))

    def _escalated(
        self, policy: str, order: NDArray[np.intp], share: float, *, first: bool = True
    ) -> Answers:
        """Questions in this order to the teacher; `first` says whether the student's answer is paid for as well."""
        student, teacher = self.student, self.teacher
        goes_Q = np.zeros(len(student.quality_Q), dtype=np.bool_)
        for place in order:
            goes_Q[place] = True
            spent = teacher.teacher_tokens_Q[goes_Q].sum()
            mine = student.student_tokens_Q.sum() if first else student.student_tokens_Q[~goes_Q].sum()
            if _share(spent, mine) > share:
                goes_Q[place] = False
                break
        kept_Q = np.ones_like(goes_Q) if first else ~goes_Q
        return Answers(
            policy,
            np.where(goes_Q, teacher.quality_Q, student.quality_Q),
            student.student_tokens_Q * kept_Q,
            teacher.teacher_tokens_Q * goes_Q,
            student.cost_usd_Q * kept_Q + teacher.cost_usd_Q * goes_Q,
            goes_Q.astype(np.float64),
        )

    def _recovered(self, quality: float) -> float | None:
        low, high = float(self.student.quality_Q.mean()), float(self.teacher.quality_Q.mean())
        return (quality - low) / (high - low) if high > low else None


async def compare(
    bench: Bench, limits: RelayLimits, fixed: Sequence[int] = (), *, seed: int = 0
) -> tuple[list[Line], Answers]:
    """The relay, its ablations and every baseline at the relay's teacher share; and the relay's answers.

    Args:
        bench: Who is asked what.
        limits: Of the relay.
        fixed: Hand-over lengths of further relays that ignore the number in the command.
        seed: Of the random places.
    """
    student_name, teacher_name = bench.arm.models
    student = await bench.alone(bench.untrained or student_name, sureness=True)
    student = replace(student, policy=student_name)
    teacher = await bench.alone(teacher_name)
    table = Comparison(student, teacher)
    relayed = await bench.relay("relay", limits)
    lines = [table.line(student), table.line(teacher), table.line(relayed)]
    share = relayed.teacher_share
    if relayed.lengths:
        lines.append(table.line(await bench.random_tokens(share, relayed.lengths, seed)))
        lines += [table.random_queries(share), table.cascade(share), table.oracle_queries(share)]
    for tokens in fixed:
        of_length = RelayLimits(limits.most_calls, max(tokens, 1), limits.teacher_timeout_s, tokens)
        lines.append(table.line(await bench.relay(f"relay, always {tokens}", of_length)))
    without = RelayLimits(0, limits.most_tokens_per_call, limits.teacher_timeout_s)
    lines.append(table.line(await bench.relay("relay, no teacher", without)))
    return lines, relayed


def _share(teacher: float, student: float) -> float:
    return float(teacher / (teacher + student)) if teacher + student else 0.0
