"""The laws of the choosing step, and worked examples."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkroute.policy import Constraints, Exploration, choose
from thinkroute.policy.choose import OVER_REQUEST_BUDGET, OVER_SPEND_BUDGET, PRICE_UNKNOWN
from thinkroute.types import Arm, ComputePrices, Decision, Effort, Estimate, Prediction, Price

SMALL_OFF = Arm("direct", ("small",), Effort("off"))
SMALL_ON = Arm("direct", ("small",), Effort("on"))
LARGE_ON = Arm("direct", ("large",), Effort("on"))
PRICES = {"small": Price(1, 2), "large": Price(10, 20)}


def prediction(quality: float, reasoning: float = 0, answer: float = 100, latency_s: float = 1) -> Prediction:
    return Prediction(
        Estimate(quality),
        Estimate(1000),
        Estimate(reasoning),
        Estimate(answer),
        latency_s=Estimate(latency_s),
    )


def decide(predictions: dict[str, Prediction], value_usd: float, **more: object) -> Decision:
    arms = [SMALL_OFF, SMALL_ON, LARGE_ON]
    decision = choose(arms, predictions, ComputePrices(value_usd), PRICES, **more)  # type: ignore[arg-type]
    assert decision is not None
    return decision


PREDICTIONS = {
    "small@off": prediction(0.5),
    "small@on": prediction(0.7, reasoning=400),
    "large@on": prediction(0.9, reasoning=900),
}


def test_utility_of_each_arm_is_value_times_quality_minus_cost() -> None:
    decision = decide(PREDICTIONS, 0.01)
    utility = {score.arm_id: score.utility_usd for score in decision.scores}
    # small@off: 1000 prompt tokens at $1/M + 100 answer tokens at $2/M = $0.0012
    assert utility["small@off"] == pytest.approx(0.01 * 0.5 - 0.0012)
    assert utility["small@on"] == pytest.approx(0.01 * 0.7 - 0.002)
    assert utility["large@on"] == pytest.approx(0.01 * 0.9 - 0.03)
    assert decision.arm.id == "small@on"


@pytest.mark.parametrize(
    ("value_usd", "arm_id"), [(0.001, "small@off"), (0.01, "small@on"), (1.0, "large@on")]
)
def test_the_dial_moves_from_cheap_to_strong(value_usd: float, arm_id: str) -> None:
    assert decide(PREDICTIONS, value_usd).arm.id == arm_id


def test_spend_pressure_shrinks_the_effort_before_the_answer() -> None:
    relaxed = choose([SMALL_OFF, SMALL_ON], PREDICTIONS, ComputePrices(0.01), PRICES)
    pressed = choose([SMALL_OFF, SMALL_ON], PREDICTIONS, ComputePrices(0.01, mu_spend=2), PRICES)
    assert relaxed is not None
    assert pressed is not None
    assert (relaxed.arm, pressed.arm) == (SMALL_ON, SMALL_OFF)


def test_latency_has_a_price() -> None:
    slow = PREDICTIONS | {"small@on": prediction(0.7, reasoning=400, latency_s=10)}
    decision = choose([SMALL_OFF, SMALL_ON], slow, ComputePrices(0.01, mu_latency_usd_per_s=0.001), PRICES)
    assert decision is not None
    assert decision.arm == SMALL_OFF


def test_an_unknown_latency_is_not_instant() -> None:
    dial = ComputePrices(1.0, mu_latency_usd_per_s=0.01)
    unknown = PREDICTIONS | {"large@on": replace(PREDICTIONS["large@on"], latency_s=None)}
    decision = choose([SMALL_OFF, LARGE_ON], unknown, dial, PRICES)
    assert decision is not None
    assert decision.arm == SMALL_OFF
    assert {score.arm_id: score.reasons for score in decision.scores}["large@on"] == ("latency_unknown",)
    decision = choose([LARGE_ON], unknown, dial, PRICES)
    assert decision is not None
    assert "latency_unknown" in decision.reason_codes


def test_thinking_of_unknown_length_is_not_free() -> None:
    unknown = {"small@on": replace(PREDICTIONS["small@on"], reasoning_tokens=None)}
    decision = choose([SMALL_ON], unknown, ComputePrices(1.0), PRICES)
    assert decision is not None
    assert decision.scores[0].cost_usd is None


def test_an_unknown_price_is_not_zero() -> None:
    decision = choose([SMALL_OFF, LARGE_ON], PREDICTIONS, ComputePrices(1.0), {"small": PRICES["small"]})
    assert decision is not None
    assert decision.arm == SMALL_OFF
    assert {score.arm_id: score.reasons for score in decision.scores}["large@on"] == (PRICE_UNKNOWN,)


def test_without_any_price_quality_decides_and_the_reason_says_so() -> None:
    decision = choose([SMALL_OFF, LARGE_ON], PREDICTIONS, ComputePrices(1.0), {})
    assert decision is not None
    assert decision.arm == LARGE_ON
    assert PRICE_UNKNOWN in decision.reason_codes


def test_a_price_change_beats_dollars_learned_from_an_old_table() -> None:
    learned = {"small@off": replace(PREDICTIONS["small@off"], cost_usd=Estimate(5.0))}
    decision = choose([SMALL_OFF], learned, ComputePrices(1.0), PRICES)
    assert decision is not None
    assert decision.scores[0].cost_usd == pytest.approx(0.0012)


def test_nothing_allowed_is_none() -> None:
    assert choose([SMALL_OFF], {}, ComputePrices(1.0), PRICES) is None
    assert choose([], {}, ComputePrices(1.0), PRICES) is None


def test_limits_name_themselves() -> None:
    constraints = Constraints(
        {"small@on": ("missing_capability:tools",)}, usd_per_request=0.01, usd_left=0.01
    )
    decision = choose([SMALL_OFF, SMALL_ON, LARGE_ON], PREDICTIONS, ComputePrices(1.0), PRICES, constraints)
    assert decision is not None
    assert decision.arm == SMALL_OFF
    reasons = {score.arm_id: score.reasons for score in decision.scores}
    assert reasons["small@on"] == ("missing_capability:tools",)
    assert reasons["large@on"] == (OVER_REQUEST_BUDGET, OVER_SPEND_BUDGET)


MODELS = ("a", "b", "c", "d")
EFFORTS = (Effort("off"), Effort("on"), Effort("on", 64))
arms_st = st.lists(
    st.builds(Arm, st.just("direct"), st.sampled_from([(m,) for m in MODELS]), st.sampled_from(EFFORTS)),
    min_size=1, max_size=8, unique=True,
)  # fmt: skip
unit = st.floats(0, 1)
tokens = st.floats(0, 5000)
predictions_st = st.builds(
    Prediction,
    st.builds(Estimate, unit),
    st.builds(Estimate, tokens),
    st.builds(Estimate, tokens),
    st.builds(Estimate, tokens),
    latency_s=st.one_of(st.none(), st.builds(Estimate, st.floats(0, 60))),
)
price_st = st.builds(Price, st.floats(0, 100), st.floats(0, 100))


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Arm], dict[str, Prediction], dict[str, Price], ComputePrices]:
    arms = draw(arms_st)
    predictions = {arm.id: draw(predictions_st) for arm in arms}
    prices = {model: draw(price_st) for model in MODELS if draw(st.booleans()) or draw(st.booleans())}
    dial = ComputePrices(draw(st.floats(1e-6, 10)), draw(st.floats(0, 5)), draw(st.floats(0, 0.1)))
    return arms, predictions, prices, dial


@given(problems(), st.floats(0, 0.5), st.floats(0, 1), st.floats(0, 1, exclude_max=True))
def test_the_choice_is_allowed_within_budget_and_propensities_sum_to_one(
    problem: tuple[list[Arm], dict[str, Prediction], dict[str, Price], ComputePrices],
    limit_usd: float,
    share: float,
    draw: float,
) -> None:
    arms, predictions, prices, dial = problem
    banned = arms[0].id
    constraints = Constraints({banned: ("banned",)}, usd_per_request=limit_usd)
    decision = choose(arms, predictions, dial, prices, constraints, Exploration(share, draw))
    if decision is None:
        return
    by_id = {score.arm_id: score for score in decision.scores}
    chosen = by_id[decision.arm.id]
    assert decision.arm in arms
    assert decision.arm.id != banned
    assert chosen.allowed
    assert chosen.cost_usd is not None
    assert chosen.cost_usd <= limit_usd
    assert decision.propensity == chosen.propensity > 0
    assert sum(score.propensity for score in decision.scores) == pytest.approx(1)
    assert all(score.propensity == 0 for score in decision.scores if not score.allowed)


@given(problems(), st.randoms(use_true_random=False), st.floats(0, 1), st.floats(0, 1, exclude_max=True))
def test_the_order_of_arms_never_matters(
    problem: tuple[list[Arm], dict[str, Prediction], dict[str, Price], ComputePrices],
    random: object,
    share: float,
    draw: float,
) -> None:
    arms, predictions, prices, dial = problem
    shuffled = list(arms)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    exploration = Exploration(share, draw)
    assert choose(arms, predictions, dial, prices, None, exploration) == choose(
        shuffled, dict(reversed(predictions.items())), dial, prices, None, exploration
    )


@given(problems(), st.floats(1.01, 50))
def test_a_dearer_model_is_never_chosen_more(
    problem: tuple[list[Arm], dict[str, Prediction], dict[str, Price], ComputePrices], factor: float
) -> None:
    arms, predictions, prices, dial = problem
    before = choose(arms, predictions, dial, prices)
    if before is None:
        return
    for model, price in prices.items():
        dearer = Price(price.input_usd_per_mtok * factor, price.output_usd_per_mtok * factor)
        after = choose(arms, predictions, dial, prices | {model: dearer})
        assert after is not None
        if before.arm.models != (model,):
            assert after.arm.models != (model,)


def test_exploration_frequencies_match_propensities() -> None:
    counts = dict.fromkeys(PREDICTIONS, 0)
    n = 3000
    for index in range(n):
        counts[decide(PREDICTIONS, 0.01, exploration=Exploration(0.3, index / n)).arm.id] += 1
    expected = {
        score.arm_id: score.propensity
        for score in decide(PREDICTIONS, 0.01, exploration=Exploration(0.3, 0.9)).scores
    }
    assert {arm: count / n for arm, count in counts.items()} == pytest.approx(expected, abs=1e-3)
