"""What type checkers must conclude about the public API; pyright reads this file, pytest only runs it."""

from __future__ import annotations

from typing import assert_type

from thinkroute.policy import choose
from thinkroute.programs import build
from thinkroute.programs.effects import Program
from thinkroute.programs.protocol import ThinkingFormat
from thinkroute.types import Arm, ComputePrices, Decision, Effort, Estimate, Ledger, Prediction, Price, Usage


def test_types_of_the_public_api() -> None:
    """The inferred types are the promised ones."""
    arm = Arm("direct", ("m",), Effort.parse("off"))
    assert_type(arm.id, str)
    assert_type(arm.effort.thinks, bool)
    assert_type(build(arm, ThinkingFormat(), None), Program)
    predictions = {arm.id: Prediction(Estimate(0.5), Estimate(1), Estimate(1), Estimate(1))}
    decision = choose([arm], predictions, ComputePrices(1.0), {"m": Price(1, 1)})
    assert_type(decision, Decision | None)
    assert_type(Ledger().cost_usd, float | None)
    assert_type(Usage() + Usage(), Usage)
