"""What a user writes of a model reaches the routers that have no outcomes of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thinkroute.config import Config, Resolved, resolve
from thinkroute.gateway.arm_info import arm_facts, arm_info, introduced
from thinkroute.gateway.assemble import router_of
from thinkroute.routers import OutcomeTable, fit_router, save_router
from thinkroute.routers.table import ArmInfo
from thinkroute.types import Price, Query

PRICE = {"input_usd_per_mtok": 0.5, "output_usd_per_mtok": 2.0}
ASKED = Query("Prove that the sum of two odd numbers is even.")


def resolved(**said: Mapping[str, Any]) -> Resolved:
    """Models that differ in nothing but what is said of them."""
    plain = {"url": "http://127.0.0.1:9/v1", "family": "plain"}
    return resolve(
        Config.model_validate({"models": {name: {**plain, **more} for name, more in said.items()}})
    )


def test_facts_and_info_hold_what_was_written() -> None:
    found = resolved(a={"description": "Good at law.", "parameters_b": 70, "price": PRICE}, b={})
    facts, info = arm_facts(found), arm_info(found)
    assert (facts["a@default"].description, facts["a@default"].parameters_b) == ("Good at law.", 70)
    assert facts["a@default"].output_usd_per_mtok == 2.0
    assert info["a@default"] == ArmInfo("Good at law.", 70, Price(0.5, 2.0))
    assert info["b@default"] == ArmInfo()


def test_a_size_that_only_the_name_or_the_description_tells_is_read_from_there() -> None:
    found = resolved(
        a={"description": "A model of 32 billion parameters."}, b={"upstream_name": "Org/Some-14B-Instruct"}
    )
    assert (arm_info(found)["a@default"].parameters_b, arm_info(found)["b@default"].parameters_b) == (32, 14)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"parameters_b": 1.5}, {"parameters_b": 70}),
        ({"description": "1.5B, quick."}, {"description": "70B, thorough."}),
        ({"price": {**PRICE, "output_usd_per_mtok": 0.1}}, {"price": {**PRICE, "output_usd_per_mtok": 10.0}}),
    ],
)
def test_the_prior_believes_more_of_what_is_said_to_be_larger_or_dearer(
    less: dict[str, Any], more: dict[str, Any]
) -> None:
    found = resolved(less=less, more=more, unsaid={})
    predicted = router_of(found).predict(ASKED, ["less@default", "more@default", "unsaid@default"])
    assert predicted["less@default"].quality.mean < predicted["more@default"].quality.mean
    assert predicted["unsaid@default"].quality.std > predicted["more@default"].quality.std


def graph(table: OutcomeTable) -> Any:
    return fit_router("graph", table, parameters={"folds": 2, "steps": 30})


@pytest.fixture(scope="module")
def table() -> OutcomeTable:
    """Two arms, described, one good and one bad."""
    rng = np.random.default_rng(0)
    texts = tuple(f"question {row} about {'law' if row % 2 else 'cooking'}" for row in range(60))
    return OutcomeTable(
        query_ids=texts,
        texts=texts,
        arms=("good@default", "bad@default"),
        measured={
            "quality": (rng.random((60, 2)) < np.array([0.9, 0.2])).astype(np.float64),
            "answer_tokens": np.full((60, 2), 20.0),
        },
        arm_info={
            "good@default": ArmInfo("Large and thorough.", 70.0, Price(5, 20)),
            "bad@default": ArmInfo("Small and quick.", 1.0, Price(0.1, 0.4)),
        },
    )


def test_a_graph_router_takes_in_described_arms_and_still_calls_them_unmeasured(
    table: OutcomeTable, tmp_path: Path
) -> None:
    save_router(graph(table), tmp_path)
    said = {
        "good": {},
        "large": {
            "description": "Large and thorough.",
            "parameters_b": 70,
            "price": {**PRICE, "output_usd_per_mtok": 20},
        },
        "little": {
            "description": "Small and quick.",
            "parameters_b": 1,
            "price": {**PRICE, "output_usd_per_mtok": 0.4},
        },
        "unsaid": {},
    }
    plain = {"url": "http://127.0.0.1:9/v1", "family": "plain"}
    config = Config.model_validate(
        {
            "models": {name: {**plain, **more} for name, more in said.items()},
            "router": {"path": str(tmp_path)},
        }
    )
    arms = [f"{name}@default" for name in said]
    predicted = router_of(resolve(config)).predict(ASKED, arms)
    assert [predicted[arm].basis for arm in arms] == ["fitted", "prior", "prior", "prior"]
    assert predicted["large@default"].quality.mean != predicted["little@default"].quality.mean
    assert predicted["large@default"].quality.mean != predicted["unsaid@default"].quality.mean
    batch = router_of(resolve(config)).predict_batch([ASKED], arms)
    assert batch.known_A.tolist() == [True, False, False, False]


def test_other_routers_stay_as_they_are(table: OutcomeTable) -> None:
    router = fit_router("best_single", table)
    assert introduced(router, resolved(large={"parameters_b": 70})) is router
