"""Judging a relay student on questions it never saw: beside every baseline at equal teacher share, and where it calls.

Owns running the programs of `evaluation.relay` in batches, the program that bans commands, and reading off, for the fleet's
questions, whose step each hand-over was. Decoding is greedy. Never imports torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from statistics import fmean
from typing import Any

import numpy as np

from thinkroute.evaluation.relay import Answers, Comparison, Line
from thinkroute.programs.direct import direct
from thinkroute.programs.driver import Prompt, run_batch
from thinkroute.programs.effects import Append, Generate, Program, Return
from thinkroute.programs.protocol import Segment, ThinkingFormat
from thinkroute.programs.random_relay import probability_for, random_relay
from thinkroute.programs.relay import CALL, RelayLimits, RelayLog, relay
from thinkroute.training.methods.relay import grade
from thinkroute.training.samplers import Sampler
from thinkroute.training.tasks import Item, Task, problem_of
from thinkroute.types import FORCED, Arm, Effort, Price

_ROWS_PER_ROUND = 512
_TOP = 5
TIMES_THE_SHARE = 4
"""Random hand-overs of so much more text must still be worse than the relay."""


def without_calls(student: str, effort: Effort, max_tokens: int | None) -> Program:
    """The student with commands banned: where it would begin one, it writes the likeliest other token.

    Needs greedy decoding with `top_logprobs`. A begun command is closed at once and hidden from the student again, so
    what it continues is its own text without any command.
    """
    left = max_tokens
    while True:
        segment = yield Generate(student, effort, left, until_text=CALL.open_tag, hides=CALL, without=CALL)
        if segment.finish != "text_end" or segment.logprobs is None:
            return Return(segment.finish)
        others = [text for text, _ in segment.logprobs[-1].top if text != CALL.open_tag]
        left = None if left is None else left - segment.usage.completion_tokens
        if not others or left == 0:
            return Return("length")
        yield Append(CALL.close_tag, hidden=True)
        yield Append(others[0])


@dataclass(frozen=True, slots=True)
class BatchBench:
    """Student and teacher in one sampler, and the questions put to them."""

    arm: Arm
    sampler: Sampler
    task: Task
    items: Sequence[Item]
    thinking: ThinkingFormat
    prices: Mapping[str, Price] = field(default_factory=dict[str, Price])
    max_tokens: int | None = None

    def alone(self, model: str, *, sureness: bool = False) -> tuple[Answers, list[Sequence[Segment]]]:
        """Every question to one model."""
        programs = [direct(model, self.arm.effort, self.max_tokens) for _ in self.items]
        return self._ask(model, programs, {"logprobs": True} if sureness else {})

    def relay(self, policy: str, limits: RelayLimits) -> tuple[Answers, list[Sequence[Segment]]]:
        """Every question to the relay."""
        logs = [RelayLog() for _ in self.items]
        programs = [relay(self.arm, self.max_tokens, self.thinking, limits, log) for log in logs]
        answers, segments = self._ask(policy, programs, {})
        return replace(answers, logs=tuple(logs)), segments

    def banned(self, policy: str) -> Answers:
        """Every question to the student, which may not call."""
        student = self.arm.models[0]
        programs = [without_calls(student, self.arm.effort, self.max_tokens) for _ in self.items]
        return self._ask(policy, programs, {"logprobs": True, "top_logprobs": _TOP})[0]

    def random_tokens(self, share: float, lengths: Sequence[int], seed: int) -> Answers:
        """Every question to a relay that hands over at random, aiming at this teacher share."""
        probability = probability_for(share, fmean(lengths))
        programs = [
            random_relay(self.arm, self.max_tokens, probability, lengths, Random(f"{seed}/{place}"))  # noqa: S311
            for place in range(len(self.items))
        ]
        return self._ask("random tokens", programs, {})[0]

    def _ask(
        self, policy: str, programs: Sequence[Program], options: Mapping[str, Any]
    ) -> tuple[Answers, list[Sequence[Segment]]]:
        written: list[Sequence[Segment]] = []
        for start in range(0, len(programs), _ROWS_PER_ROUND):
            part = slice(start, start + _ROWS_PER_ROUND)
            prompts = [
                Prompt(item.messages, {"temperature": 0, **options}, stream=False)
                for item in self.items[part]
            ]
            runs = run_batch(programs[part], prompts, self.sampler.generate)
            written += [segments for segments, _ in runs]
        rows = [self._measured(item, segments) for item, segments in zip(self.items, written, strict=True)]
        quality_Q, student_Q, teacher_Q, cost_Q, calls_Q, sureness_Q = np.array(rows, dtype=np.float64).T
        sure = None if np.isnan(sureness_Q).any() else sureness_Q
        return Answers(policy, quality_Q, student_Q, teacher_Q, cost_Q, calls_Q, sure), written

    def _measured(self, item: Item, segments: Sequence[Segment]) -> tuple[float, ...]:
        teacher = self.arm.models[1]
        made = [segment for segment in segments if segment.owner != FORCED]
        theirs = [segment.usage.completion_tokens for segment in made if segment.owner == teacher]
        logprobs = [token.logprob for segment in made for token in segment.logprobs or ()]
        cost_usd = math.nan
        if all(segment.owner in self.prices for segment in made):
            cost_usd = sum(
                self.prices[s.owner].cost_usd(
                    s.usage.prompt_tokens, s.usage.completion_tokens, s.usage.cached_tokens
                )
                for s in made
            )
        return (
            grade(self.task, item, "".join(segment.text for segment in segments)),
            sum(s.usage.completion_tokens for s in made) - sum(theirs),
            sum(theirs),
            cost_usd,
            len(theirs),
            fmean(logprobs) if logprobs else math.nan,
        )


_STEP = re.compile(r"(?P<words>[a-z0-9 ]+) from \d is (?P<result>\d)")
_CHECK = "now check"
_WORDS_OF = {"doubles": "times", "triples": "times"}


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a thought that ends in a digit."""

    operator: str
    by_teacher: bool
    """Whether the teacher wrote the digit."""


def steps_of(segments: Sequence[Segment], teacher: str) -> list[Step]:
    """The steps on digits worked out in a fleet member's thought, up to the check of the last one."""
    text, owners = _shown(segments)
    end = text.find(_CHECK)
    return [
        Step(_operator(found["words"]), owners[found.start("result")] == teacher)
        for found in _STEP.finditer(text, 0, end if end >= 0 else len(text))
    ]


def _shown(segments: Sequence[Segment]) -> tuple[str, list[str]]:
    """The message without commands, and the owner of every character."""
    whole = "".join(segment.text for segment in segments)
    owners = [segment.owner for segment in segments for _ in segment.text]
    hidden = {place for begin, end in CALL.spans(whole) for place in range(begin, end)}
    kept = [place for place in range(len(whole)) if place not in hidden]
    return "".join(whole[place] for place in kept), [owners[place] for place in kept]


def _operator(words: str) -> str:
    """The operator a step's words name; other verbs of the stories are sums the student knows."""
    for word in words.split():
        if (name := _WORDS_OF.get(word, word)) in ("times", "plus", "minus", "gap", "star"):
            return name
    return "story"


def places(
    items: Sequence[Item],
    written: Sequence[Sequence[Segment]],
    answers: Answers,
    teacher: str,
    unknown: Sequence[str],
) -> dict[str, float]:
    """Where a relay calls, on the fleet's questions, given the operators that its student does not know."""
    steps = [step for segments in written for step in steps_of(segments, teacher)]
    needed = [step.by_teacher for step in steps if step.operator in unknown]
    known = [step.by_teacher for step in steps if step.operator not in unknown]
    hard_Q = np.array([any(word in problem_of(item).key.split() for word in unknown) for item in items])
    called_Q = answers.calls_Q > 0
    calls = float(answers.calls_Q.sum())
    return {
        "unknown_steps": len(needed),
        "unknown_steps_by_teacher": fmean(needed) if needed else 0.0,
        "known_steps": len(known),
        "known_steps_by_teacher": fmean(known) if known else 0.0,
        "calls": calls,
        "calls_at_unknown_steps": sum(needed) / calls if calls else 0.0,
        "easy_questions": int((~hard_Q).sum()),
        "easy_questions_that_call": float(called_Q[~hard_Q].mean()) if (~hard_Q).any() else 0.0,
        "hard_questions": int(hard_Q.sum()),
        "hard_questions_that_call": float(called_Q[hard_Q].mean()) if hard_Q.any() else 0.0,
        "easy_accuracy": float(answers.quality_Q[~hard_Q].mean()) if (~hard_Q).any() else 0.0,
        "hard_accuracy": float(answers.quality_Q[hard_Q].mean()) if hard_Q.any() else 0.0,
    }


def by(items: Sequence[Item], answers: Answers, key: Callable[[Item], object]) -> dict[str, dict[str, float]]:
    """Accuracy, teacher share and calls of parts of the questions."""
    parts: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        parts.setdefault(str(key(item)), []).append(place)
    return {
        name: {
            "accuracy": round(float(answers.quality_Q[chosen].mean()), 4),
            "teacher_share": round(
                float(
                    answers.teacher_tokens_Q[chosen].sum()
                    / (answers.teacher_tokens_Q + answers.student_tokens_Q)[chosen].sum()
                ),
                4,
            ),
            "calls": round(float(answers.calls_Q[chosen].mean()), 3),
        }
        for name, chosen in parts.items()
    }


def query_baselines(table: Comparison, relayed: Answers) -> list[Line]:
    """Whole questions to the teacher, until it writes what it wrote in the relay."""
    share = relayed.teacher_share
    return [table.random_queries(share), table.cascade(share), table.oracle_queries(share)] if share else []


def random_baselines(bench: BatchBench, table: Comparison, relayed: Answers, *, seed: int) -> list[Line]:
    """Hand-overs at random places, as long as the relay's: at its teacher share, and at several times of it."""
    share = relayed.teacher_share
    if not share:
        return []
    equal = bench.random_tokens(share, relayed.lengths, seed)
    more = bench.random_tokens(min(TIMES_THE_SHARE * share, 0.5), relayed.lengths, seed)
    name = f"random tokens, {TIMES_THE_SHARE} times the share"
    return [table.line(equal), replace(table.line(more), policy=name)]
