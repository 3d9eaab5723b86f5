"""Hard thinking budgets on the shipped members, through the real program and engine."""

from __future__ import annotations

import re

import pytest

from thinkroute import programs
from thinkroute.catalog import family_named
from thinkroute.engines.embedded import EmbeddedEngine
from thinkroute.engines.embedded.vocabulary import Vocabulary
from thinkroute.fleet import shipped
from thinkroute.fleet.evaluate import arm_of
from thinkroute.fleet.tasks import grade
from thinkroute.programs.driver import Prompt, Run
from thinkroute.programs.protocol import ThinkingFormat
from thinkroute.types import Effort

ONE_HOP = "Who is the rival of Olga?"
FOUR_STEPS = "Take 4. First plus 3. Second minus 9. Third plus 5. Fourth minus 2. What is the last digit?"


async def message(question: str, budget: int) -> tuple[str, Run]:
    """The teacher's raw message under a budget."""
    engine = EmbeddedEngine({"teacher": shipped.directory("teacher")})
    family = family_named("thinkroute-fleet")
    form = ThinkingFormat(family.open_text, family.close_text, family.stop_text)
    program = programs.build(arm_of("teacher", Effort("on", budget)), form, None)
    run = Run(program, Prompt([{"role": "user", "content": question}]), {"teacher": engine}, {})
    shown = [delta.text async for delta in run.events()]
    await engine.aclose()
    assert "<" not in "".join(shown)
    return "".join(segment.text for segment in run.segments), run


@pytest.mark.parametrize("budget", range(1, 12))
async def test_wherever_the_budget_cuts_the_message_keeps_its_form(budget: int) -> None:
    text, run = await message(ONE_HOP, budget)
    assert re.fullmatch(r"<think>\n?[^\n]*\n</think>\n\nafter all the steps [a-z ]+\.", text)
    thought = sum(segment.usage.reasoning_tokens for segment in run.segments)
    assert thought <= budget


async def test_a_cut_right_after_the_last_line_break_costs_nothing() -> None:
    whole, _ = await message(ONE_HOP, 200)
    thought = Vocabulary(shipped.directory("teacher") / "tokenizer.json").encode(
        whole.partition("<think>")[2].partition("</think>")[0]
    )
    text, run = await message(ONE_HOP, len(thought) + 1)  # the opening tag counts
    assert run.segments[0].text.endswith(".\n")
    assert text == whole
    assert grade(ONE_HOP, text) == 1.0


async def test_enough_budget_changes_nothing() -> None:
    limited, _ = await message(FOUR_STEPS, 100)
    unlimited, _ = await message(FOUR_STEPS, 200)
    assert limited == unlimited
    assert grade(FOUR_STEPS, limited) == 1.0
