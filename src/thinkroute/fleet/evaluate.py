"""Measuring the members as they are served: accuracy and tokens by family, level and effort. Torch-free.

Questions come from the `eval` split, decoding is greedy, and every effort runs through the same programs and engine as
in the gateway. A budget of 0 is `off`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean

from thinkroute import programs
from thinkroute.catalog import family_named
from thinkroute.engines.embedded import EmbeddedEngine
from thinkroute.fleet import shipped
from thinkroute.fleet.tasks import FAMILIES, LEVELS, FamilyName, Problem, generate, grade
from thinkroute.programs.driver import Prompt, Run
from thinkroute.programs.protocol import ThinkingFormat
from thinkroute.types import Arm, Effort, Usage

EFFORTS = ("off", "budget=8", "budget=16", "budget=32", "budget=64", "on")
_ANSWER_FLOOR_TOKENS = 16
_CONCURRENCY = 64
_DRAWS_PER_QUESTION = 20

Progress = Callable[[str, int, int], None]
"""Called with what is measured, questions done and questions in all."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One member at one effort on one family and level. Token counts are means per question."""

    member: str
    effort: str
    family: FamilyName
    level: int
    questions: int
    accuracy: float
    prompt_tokens: float
    reasoning_tokens: float
    answer_tokens: float
    """Generated tokens outside the thinking block; tags and the end token count here."""


@dataclass(frozen=True, slots=True)
class Obedience:
    """How often a member thinks as the soft switch asks, thinking being the default."""

    member: str
    switch: str
    questions: int
    obeyed: float


@dataclass(frozen=True, slots=True)
class Answer:
    """One graded reply."""

    correct: float
    usage: Usage


def arm_of(member: str, effort: Effort) -> Arm:
    """The arm that gives a member this effort."""
    return Arm("budgeted" if effort.budget_tokens else "direct", (member,), effort)


def draw_questions(family: FamilyName, level: int, count: int, seed: int) -> list[Problem]:
    """Evaluation questions of one cell, no text twice unless there are too few; the same for every member and effort."""
    rng = Random(f"{seed}/{family}/{level}")  # noqa: S311 - reproducible questions, not a secret
    drawn: dict[str, Problem] = {}
    for _ in range(_DRAWS_PER_QUESTION * count):
        problem = generate(rng, family, level, "eval")
        drawn.setdefault(problem.question, problem)
        if len(drawn) == count:
            break
    distinct = list(drawn.values())
    return distinct + rng.choices(distinct, k=count - len(distinct))


class Examiner:
    """Asks the members questions, many at a time."""

    def __init__(self, engine: EmbeddedEngine, members: Sequence[str]) -> None:
        family = family_named("thinkroute-fleet")
        self._engines = dict.fromkeys(members, engine)
        self._format = ThinkingFormat(family.open_text, family.close_text, family.stop_text)
        self._slots = asyncio.Semaphore(_CONCURRENCY)

    async def ask(self, question: str, arm: Arm) -> Answer:
        """One question to one arm, graded."""
        program = programs.build(arm, self._format, None, _ANSWER_FLOOR_TOKENS)
        run = Run(program, Prompt([{"role": "user", "content": question}], stream=False), self._engines, {})
        async with self._slots:
            async for _ in run.events():
                pass
        text = "".join(segment.text for segment in run.segments)
        return Answer(grade(question, text), run.ledger.usage)

    async def cell(self, member: str, effort: str, problems: Sequence[Problem]) -> Cell:
        """One cell of the table."""
        arm = arm_of(member, Effort.parse(effort))
        answers = await asyncio.gather(*(self.ask(problem.question, arm) for problem in problems))
        first = problems[0]
        usages = [answer.usage for answer in answers]
        return Cell(
            member,
            effort,
            first.family,
            first.level,
            len(problems),
            fmean(answer.correct for answer in answers),
            fmean(usage.prompt_tokens for usage in usages),
            fmean(usage.reasoning_tokens for usage in usages),
            fmean(usage.completion_tokens - usage.reasoning_tokens for usage in usages),
        )

    async def obedience(self, member: str, switch: str, problems: Sequence[Problem]) -> Obedience:
        """Whether the thinking block is used or left empty as the switch asks."""
        arm = arm_of(member, Effort("default"))
        questions = [f"{problem.question} {switch}".strip() for problem in problems]
        answers = await asyncio.gather(*(self.ask(question, arm) for question in questions))
        wanted = switch != "/no_think"
        # An empty block holds one token, the blank line.
        obeyed = fmean((answer.usage.reasoning_tokens > 1) == wanted for answer in answers)
        return Obedience(member, switch or "none", len(problems), obeyed)


def always_thinking() -> frozenset[str]:
    """Shipped members, and what was trained from them, that know no soft switches."""
    return frozenset(name for name in shipped.all_names() if not shipped.member(name).switches)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything one evaluation measured."""

    cells: tuple[Cell, ...]
    obedience: tuple[Obedience, ...]

    def accuracy(
        self, member: str, effort: str, level: int | None = None, family: str | None = None
    ) -> float:
        """Mean over the cells that match; cells have equal size."""
        return fmean(cell.accuracy for cell in self._matching(member, effort, level, family))

    def tokens(self, member: str, effort: str, level: int | None = None) -> float:
        """Mean generated tokens per question."""
        matching = self._matching(member, effort, level, None)
        return fmean(cell.reasoning_tokens + cell.answer_tokens for cell in matching)

    def _matching(self, member: str, effort: str, level: int | None, family: str | None) -> Iterable[Cell]:
        return [
            cell
            for cell in self.cells
            if (cell.member, cell.effort) == (member, effort)
            and level in (None, cell.level)
            and family in (None, cell.family)
        ]


async def evaluate(
    members: Mapping[str, Path],
    *,
    questions: int,
    seed: int,
    efforts: Sequence[str] = EFFORTS,
    progress: Progress = lambda what, done, total: None,
) -> Report:
    """Measure every member at every effort on `questions` questions per family and level."""
    engine = EmbeddedEngine(members, queue_limit=_CONCURRENCY * 2)
    await engine.start()
    try:
        examiner = Examiner(engine, list(members))
        sets = [draw_questions(name, level, questions, seed) for name in FAMILIES for level in LEVELS]
        cells: list[Cell] = []
        total = len(members) * len(efforts) * len(sets)
        for member in members:
            for effort in efforts:
                for problems in sets:
                    cells.append(await examiner.cell(member, effort, problems))
                    progress(f"{member}@{effort}", len(cells), total)
        mixed = [problem for problems in sets for problem in problems[: max(1, questions // 5)]]
        obedience = [
            await examiner.obedience(member, switch, mixed)
            for member in members
            for switch in (("",) if member in always_thinking() else ("", "/think", "/no_think"))
        ]
        return Report(tuple(cells), tuple(obedience))
    finally:
        await engine.aclose()
