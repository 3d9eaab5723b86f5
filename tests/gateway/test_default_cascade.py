"""The gateway as it comes: the fleet's own cascade is a name to ask for, and one of the arms `auto` chooses among."""

from __future__ import annotations

from typing import Any

from tests.gateway.conftest import Gateway
from thinkroute.config import Config, resolve
from thinkroute.fleet import shipped
from thinkroute.fleet.tasks import grade
from thinkroute.gateway.assemble import resolve_shipped

EASY = "Dora has 2 coins. On Monday she gets 5. What is the last digit?"


def asks(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


async def test_the_cascade_is_listed_and_answers_by_its_short_name(fleet: Gateway) -> None:
    arm_id = shipped.cascade_arm().id
    listed = {
        entry["id"]: entry["thinkroute"] for entry in (await (await fleet.get("/v1/models")).json())["data"]
    }
    assert listed["cascade"] == {"kind": "virtual", "arms": [arm_id], "value_usd": 0.01}
    assert listed[arm_id] == {"kind": "arm", "program": "cascade"}
    response = await fleet.chat(model="cascade", **asks(EASY))
    assert response.status == 200
    answer = (await response.json())["choices"][0]["message"]["content"]
    assert grade(EASY, answer) == 1.0
    card = await (await fleet.get(f"/v1/decisions/{response.headers['x-thinkroute-decision']}")).json()
    assert card["arm_id"] == arm_id
    ran = [stage["arm_id"] for stage in card["stages"]]
    assert ran == [stage for stage in listed_stages() if stage in ran], "stages run in their order"
    assert [stage["outcome"] for stage in card["stages"]].count("accepted") == 1
    assert set(card["first_stage_usd"]) == set(listed_stages())
    assert {leg["owner"] for leg in card["legs"]} == {stage.partition("@")[0] for stage in ran}


async def test_auto_weighs_the_cascade_against_every_other_arm(fleet: Gateway) -> None:
    response = await fleet.chat(**asks(EASY))
    assert response.status == 200
    scores = {score.arm_id: score for score in fleet.record().scores}
    assert set(scores) == {arm.id for arm in (*shipped.arms(), shipped.cascade_arm())}
    own = scores[shipped.cascade_arm().id]
    dearest = scores["teacher@on"]
    assert own.allowed
    assert own.quality is not None
    assert own.quality > 0.5
    assert own.cost_usd is not None
    assert dearest.cost_usd is not None
    assert 0 < own.cost_usd < dearest.cost_usd, "it expects to stop early"


async def test_who_asks_for_an_effort_gets_an_arm_that_honours_it_and_no_cascade(fleet: Gateway) -> None:
    response = await fleet.chat(model="auto@off", **asks(EASY))
    assert response.headers["x-thinkroute-arm"].endswith("@off")
    refused = await fleet.chat(model="cascade@off", **asks(EASY))
    assert refused.status == 422
    assert "no arm of 'cascade' honours effort off" in await refused.text()


def test_own_arms_an_own_cascade_or_an_own_model_of_that_name_stand_before_the_shipped_one() -> None:
    assert "cascade" in resolve_shipped(Config()).virtual_models
    for written in (
        {"arms": ["student@off"]},
        {"cascade": {"path": "mine"}},
        {"fleet": False, "models": {"small": {"url": "http://127.0.0.1:9/v1"}}},
    ):
        resolved = resolve_shipped(Config.model_validate(written))
        assert "cascade" not in resolved.virtual_models
        assert not any(arm.stages for arm in resolved.arms)
    model = {"fleet": True, "models": {"cascade": {"url": "http://127.0.0.1:9/v1"}}}
    assert "cascade" not in resolve_shipped(Config.model_validate(model)).virtual_models
    named = {"virtual_models": {"cascade": {"arms": ["student@off"]}}}
    resolved = resolve_shipped(Config.model_validate(named))
    assert [arm.id for arm in resolved.virtual_models["cascade"].arms] == ["student@off"]


def test_a_configuration_alone_offers_no_cascade() -> None:
    assert "cascade" not in resolve(Config(), shipped.models(), shipped.arms()).virtual_models


def listed_stages() -> list[str]:
    return [stage.id for stage in shipped.cascade_arm().stages]
