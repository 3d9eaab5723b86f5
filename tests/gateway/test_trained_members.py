"""The gateway as it comes serves what `thinkroute train` made of the fleet's members, and each does what it was taught."""

from __future__ import annotations

import asyncio
from random import Random
from statistics import fmean
from typing import Any

import pytest

from tests.gateway.conftest import Gateway
from thinkroute.fleet import shipped
from thinkroute.fleet.tasks import FamilyName, generate, grade

FAMILIES: tuple[FamilyName, ...] = ("arithmetic", "story", "relations", "composition")
UNKNOWN_TO_THE_STUDENT = "Start with 4. First times 3. Second plus 9. What is the last digit?"


async def ask(fleet: Gateway, model: str, question: str, suffix: str = "") -> tuple[bool, float]:
    """Whether it thought, and whether it is right."""
    response = await fleet.chat(model=model, messages=[{"role": "user", "content": question + suffix}])
    assert response.status == 200, await response.text()
    message: dict[str, Any] = (await response.json())["choices"][0]["message"]
    return bool(message.get("reasoning_content")), grade(question, message["content"])


async def asked(fleet: Gateway, model: str, level: int, suffix: str = "") -> tuple[float, float]:
    """Shares that thought and that are right, over ten unseen questions of each family."""
    questions = [
        generate(Random(f"{place}/{family}/{level}"), family, level, "eval").question
        for family in FAMILIES
        for place in range(10)
    ]
    answers = await asyncio.gather(*(ask(fleet, model, question, suffix) for question in questions))
    return fmean(thought for thought, _ in answers), fmean(right for _, right in answers)


@pytest.mark.parametrize("model", ["base-adaptthink@adaptive=0.3", "base-adacot@adaptive=0.5"])
async def test_a_member_that_decides_itself_thinks_where_it_must(fleet: Gateway, model: str) -> None:
    thought, right = await asked(fleet, model, 1)
    assert thought <= 0.1
    assert right >= 0.95
    thought, right = await asked(fleet, model, 5)
    assert thought >= 0.9
    assert right >= 0.9


async def test_a_larger_threshold_makes_it_think_more(fleet: Gateway) -> None:
    thoughts = [(await asked(fleet, f"base-adaptthink@adaptive={t}", 3))[0] for t in (0.1, 0.3, 0.9)]
    assert thoughts == sorted(thoughts)


async def test_the_base_learned_to_obey_the_switches(fleet: Gateway) -> None:
    assert (await asked(fleet, "base-fusion@default", 2, " /no_think"))[0] <= 0.02
    thought, right = await asked(fleet, "base-fusion@default", 5, " /think")
    assert thought >= 0.98
    assert right >= 0.9


async def test_the_relay_asks_the_teacher_where_the_student_does_not_know(fleet: Gateway) -> None:
    arm_id = shipped.relay_arm().id
    _, right = await ask(fleet, arm_id, UNKNOWN_TO_THE_STUDENT)
    assert right == 1.0
    record = fleet.record()
    assert record.relay is not None
    assert record.relay.hand_overs
    assert {leg.owner for leg in record.legs} == {"student-relay", "teacher"}
    await ask(fleet, arm_id, "Who is the tutor of Dora?")
    known = fleet.record().relay
    assert known is not None
    assert not known.hand_overs
