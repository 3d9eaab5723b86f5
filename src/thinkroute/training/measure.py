"""Measuring a model that decides for itself when to think: accuracy, tokens, share of empty blocks, by level. No torch.

Decoding is greedy through the same `direct` program as in the gateway. Token counts are whole responses, tags
included, whoever wrote them. Every figure over levels is a mean under stated shares of the levels, so one measurement
serves any mix; intervals resample the questions within levels, paired where two models are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinkroute.programs.budgeted import budgeted
from thinkroute.programs.direct import direct
from thinkroute.programs.driver import Prompt, run_batch
from thinkroute.programs.protocol import Segment, ThinkingFormat
from thinkroute.training.rollout import opened
from thinkroute.training.samplers import Sampler
from thinkroute.training.tasks import Item, Task
from thinkroute.training.thinking import THINK_CLOSE, Openings, has_reasoning
from thinkroute.types import Effort

_ROWS_PER_ROUND = 512
_RESAMPLES = 1000
_TOP = 10

Doubles = NDArray[np.float64]
Messages = list[dict[str, Any]]


def as_asked(item: Item) -> Messages:
    """The question as it stands."""
    return item.messages


@dataclass(frozen=True, slots=True)
class Answered:
    """One question answered."""

    level: int
    family: str
    correct: float
    tokens: int
    direct: bool
    """Whether the block was empty."""
    p_direct: float
    """Probability of the token that makes it empty; 0 where it is not among the ten likeliest or was forced."""


def measure(
    items: Sequence[Item],
    sampler: Sampler,
    task: Task,
    openings: Openings,
    *,
    forced: str = "",
    address: Callable[[Item], Messages] = as_asked,
    max_tokens: int | None = None,
) -> list[Answered]:
    """Answer every question greedily.

    Args:
        items: The questions.
        sampler: Holds the weights to measure.
        task: Grades.
        openings: The family's modes.
        forced: Begin every response with this text, to force a mode.
        address: The conversation a question is asked in, for soft switches and system messages.
        max_tokens: Cap of every response.
    """
    rows: list[Answered] = []
    for start in range(0, len(items), _ROWS_PER_ROUND):
        chosen = items[start : start + _ROWS_PER_ROUND]
        answered = _answer([address(item) for item in chosen], sampler, openings, forced, max_tokens)
        rows += [
            Answered(
                item.level, item.family, task.grade(item, text), tokens, not has_reasoning(text), p_direct
            )
            for item, (text, tokens, p_direct) in zip(chosen, answered, strict=True)
        ]
    return rows


def _answer(
    asked: Sequence[Messages],
    sampler: Sampler,
    openings: Openings,
    forced: str,
    max_tokens: int | None,
) -> list[tuple[str, int, float]]:
    """Text, tokens and probability of an empty block of every response."""
    options = {"temperature": 0, "logprobs": True, "top_logprobs": _TOP}
    prompts = [Prompt(messages, options, stream=False) for messages in asked]
    programs = [
        opened(forced, plain) if forced else plain
        for plain in (direct(sampler.model, Effort("default"), max_tokens) for _ in asked)
    ]
    answers: list[tuple[str, int, float]] = []
    for segments, _ in run_batch(programs, prompts, sampler.generate):
        tokens = segments[-1].usage.completion_tokens + len(sampler.encode(forced))
        p_direct = 0.0 if forced else probability_of_empty_block(segments[-1], openings)
        answers.append(("".join(segment.text for segment in segments), tokens, p_direct))
    return answers


def turned(
    free: Sequence[Answered], think: Sequence[Answered], direct_rows: Sequence[Answered], threshold: float
) -> list[Answered]:
    """The dial: answer at once wherever the free model's probability of doing so is at least the threshold.

    Needs no further decoding: greedy responses behind either opening are known already.
    """
    return [
        replace(answer if chosen.p_direct >= threshold else thought, p_direct=chosen.p_direct)
        for chosen, thought, answer in zip(free, think, direct_rows, strict=True)
    ]


def probability_of_empty_block(segment: Segment, openings: Openings) -> float:
    """How likely the model was to answer at once, where it decided; 0 when that is not among the reported tokens."""
    if segment.logprobs is None or len(segment.logprobs) <= openings.decision:
        return 0.0
    decided = segment.logprobs[openings.decision]
    return exp(dict(decided.top).get(openings.no_think_token, -100.0))


def budget_curve(
    items: Sequence[Item],
    sampler: Sampler,
    task: Task,
    thinking: ThinkingFormat,
    budgets: Sequence[int | None],
) -> list[tuple[float, float]]:
    """Accuracy and generated tokens at every thinking budget (0 is off, None no limit), by the gateway's programs."""
    points: list[tuple[float, float]] = []
    for budget in budgets:
        effort = Effort("on", budget) if budget else Effort("off" if budget == 0 else "on")
        prompts = [Prompt(item.messages, {"temperature": 0}, stream=False) for item in items]
        made = [budgeted(sampler.model, effort, None, thinking, 0) for _ in items]
        if not budget:
            made = [direct(sampler.model, effort, None) for _ in items]
        runs = run_batch(made, prompts, sampler.generate)
        grades: list[float] = []
        for item, (segments, _) in zip(items, runs, strict=True):
            text = "".join(segment.text for segment in segments)
            # A block that the prompt prefilled is not in the response.
            grades.append(task.grade(item, text if THINK_CLOSE in text else f"{THINK_CLOSE}{text}"))
        tokens = [sum(segment.usage.completion_tokens for segment in segments) for segments, _ in runs]
        points.append((float(np.mean(grades)), float(np.mean(tokens))))
    return points


@dataclass(frozen=True, slots=True)
class Summary:
    """A measurement under one mix of levels."""

    accuracy: float
    accuracy_interval: tuple[float, float]
    tokens: float
    direct_share: float


class Measurement:
    """Answers of one model to one set of questions."""

    def __init__(self, rows: Sequence[Answered]) -> None:
        self.rows = list(rows)
        self.levels: tuple[int, ...] = tuple(sorted({row.level for row in rows}))
        self._columns = {
            name: {
                level: np.array([float(getattr(row, name)) for row in rows if row.level == level])
                for level in self.levels
            }
            for name in ("correct", "tokens", "direct", "p_direct")
        }

    def mixes(self, by_level: Mapping[str, Sequence[float]]) -> Mapping[str, Sequence[float]]:
        """The mixes over five levels; of other questions, all as they are."""
        if len(self.levels) == 5:
            return by_level
        return {"all": [float(len(values)) for values in self._columns["correct"].values()]}

    def by_level(self, name: str) -> dict[int, float]:
        """The mean of `correct`, `tokens`, `direct` or `p_direct` at every level."""
        return {level: float(values.mean()) for level, values in self._columns[name].items()}

    def mean(self, name: str, shares: Sequence[float] | None = None) -> float:
        """The mean under shares of the levels; None for equal ones."""
        means = list(self.by_level(name).values())
        return float(np.average(means, weights=shares))

    def summary(self, shares: Sequence[float] | None = None) -> Summary:
        """Accuracy with its interval, tokens and the share of empty blocks."""
        return Summary(
            self.mean("correct", shares),
            interval(self._columns["correct"], shares),
            self.mean("tokens", shares),
            self.mean("direct", shares),
        )

    def gain_over(
        self, other: Measurement, name: str = "correct", shares: Sequence[float] | None = None
    ) -> tuple[float, float, float]:
        """Mean difference to another model on the same questions, with a paired 95 % interval."""
        differences = {
            level: self._columns[name][level] - other._columns[name][level] for level in self.levels
        }
        mean = float(np.average([values.mean() for values in differences.values()], weights=shares))
        return (mean, *interval(differences, shares))

    def as_json(self, shares: Mapping[str, Sequence[float]]) -> dict[str, object]:
        """By level, and under each named mix."""
        return {
            "questions": len(self.rows),
            "by_level": {
                name: {str(level): round(value, 4) for level, value in self.by_level(name).items()}
                for name in self._columns
            },
            **{
                mix: {
                    "accuracy": round(summary.accuracy, 4),
                    "accuracy_95": [round(bound, 4) for bound in summary.accuracy_interval],
                    "tokens": round(summary.tokens, 2),
                    "direct_share": round(summary.direct_share, 4),
                }
                for mix, summary in ((mix, self.summary(values)) for mix, values in shares.items())
            },
        }


def interval(
    values_by_level: Mapping[int, Doubles], shares: Sequence[float] | None, resamples: int = _RESAMPLES
) -> tuple[float, float]:
    """A 95 % bootstrap interval of the mean under shares, resampling within levels."""
    generator = np.random.Generator(np.random.PCG64(0))
    means = np.stack(
        [
            values[generator.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
            for values in values_by_level.values()
        ]
    )
    totals = np.average(means, axis=0, weights=shares)
    low, high = np.quantile(totals, (0.025, 0.975))
    return float(low), float(high)
