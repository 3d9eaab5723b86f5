"""Relays between members of the fleet: the questions, the engine, and a rule that calls where no student does yet."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from random import Random

from thinkroute.catalog import family_named
from thinkroute.engines.embedded import EmbeddedEngine
from thinkroute.evaluation.relay import Bench, Question
from thinkroute.fleet.shipped import MEMBERS
from thinkroute.fleet.tasks import FAMILIES, LEVELS, FamilyName, generate, grade
from thinkroute.programs.protocol import Engine, ThinkingFormat
from thinkroute.programs.relay import CALL
from thinkroute.testing.calling import CallingEngine
from thinkroute.types import Arm, Effort

STUDENT, TEACHER, UNTRAINED = "student", "teacher", "untrained"
_CONCURRENCY = 256


@dataclass(frozen=True, slots=True)
class Rule:
    """Where a student that was not trained to call is made to."""

    after: str = " is"
    """Calls stand after this text: in the members' traces the result of a step follows it."""
    where: str = ""
    """Regular expression of what must stand before, up to and including `after`; empty: always."""
    tokens: int = 1


def draw_questions(count: int, seed: int) -> list[Question]:
    """The standard mix: every family and level in turn, from the evaluation split."""
    rng = Random(f"relay/{seed}")  # noqa: S311 - reproducible questions, not a secret
    kinds: list[tuple[FamilyName, int]] = [(family, level) for level in LEVELS for family in FAMILIES]
    texts = [generate(rng, family, level, "eval").question for family, level in islice(cycle(kinds), count)]
    return [question_of(text) for text in texts]


def question_of(text: str) -> Question:
    """A fleet question; a relay's commands are no part of its answer."""
    return Question(text, lambda answer: grade(text, CALL.removed(answer)))


@asynccontextmanager
async def opened_bench(
    questions: list[Question],
    *,
    student: Path,
    teacher: Path,
    effort: Effort,
    rule: Rule | None = None,
    max_tokens: int | None = None,
    untrained: Path | None = None,
) -> AsyncGenerator[Bench]:
    """A student and a teacher in one embedded engine, greedy, at the shipped members' prices.

    Args:
        questions: What they are asked.
        student: Its folder.
        teacher: Its folder.
        effort: Of both.
        rule: Where a student that was not trained to call is made to.
        max_tokens: Cap on an answer.
        untrained: Folder of the student before it learned to call: what the baselines are made of.
    """
    folders = {STUDENT: student, TEACHER: teacher, **({UNTRAINED: untrained} if untrained else {})}
    engine = EmbeddedEngine(folders, queue_limit=_CONCURRENCY)
    asked: Engine = engine
    if rule is not None:
        tokenizer = student / "tokenizer.json"
        asked = CallingEngine(engine, tokenizer, after=rule.after, where=rule.where, tokens=rule.tokens)
    family = family_named("thinkroute-fleet")
    await engine.start()
    try:
        yield Bench(
            Arm("relay", (STUDENT, TEACHER), effort),
            {STUDENT: asked, TEACHER: engine, UNTRAINED: engine},
            {name: MEMBERS[STUDENT if name == UNTRAINED else name].price for name in folders},
            questions,
            ThinkingFormat(family.open_text, family.close_text, family.stop_text),
            max_tokens,
            untrained=UNTRAINED if untrained else "",
        )
    finally:
        await engine.aclose()
