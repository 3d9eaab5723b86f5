"""What the embedded engine answers: the same member, the same programs, no server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from thinkroute import programs
from thinkroute.catalog import family_named
from thinkroute.engines.embedded import EmbeddedEngine
from thinkroute.fleet.tasks import FAMILIES, LEVELS, generate
from thinkroute.programs.driver import Prompt, Run
from thinkroute.programs.protocol import Segment, ThinkingFormat
from thinkroute.types import Arm, Effort

_MEMBER = "member"


@dataclass(frozen=True, slots=True)
class Expected:
    """One answer of the embedded engine."""

    thought: str
    content: str
    segments: tuple[Segment, ...]


def questions(count: int) -> list[str]:
    """Evaluation questions of all families and levels in turn, as a user would type them."""
    rng = Random(41)
    families = sorted(FAMILIES)
    return [
        generate(rng, families[index % len(families)], LEVELS[index % len(LEVELS)], "eval").question
        for index in range(count)
    ]


async def expected(member: Path, asked: Sequence[str], effort: str) -> list[Expected]:
    """The embedded engine's greedy answers at an effort (`on`, `off`, `budget=16`)."""
    engine = EmbeddedEngine({_MEMBER: member})
    family = family_named("thinkroute-fleet")
    thinking = ThinkingFormat(family.open_text, family.close_text, family.stop_text)
    wanted = Effort.parse(effort)
    arm = Arm("budgeted" if wanted.budget_tokens else "direct", (_MEMBER,), wanted)

    async def one(question: str) -> Expected:
        prompt = Prompt([{"role": "user", "content": question}], {"logprobs": True}, stream=False)
        run = Run(programs.build(arm, thinking, None), prompt, {_MEMBER: engine}, {})
        said = {"reasoning": "", "answer": ""}
        async for delta in run.events():
            said[delta.channel] += delta.text
        return Expected(said["reasoning"], said["answer"], tuple(run.segments))

    try:
        return await asyncio.gather(*(one(question) for question in asked))
    finally:
        await engine.aclose()
