"""The choosing step: predictions and prices in, a `Decision` out. Pure, synchronous, no I/O, no clock, no global.

utility(arm) = value · quality − (1 + mu_spend) · cost − mu_latency · latency

Laws, each property-tested: the chosen arm is allowed; the order of arms and predictions never matters; raising an
arm's price never makes it chosen more; no arm over a hard limit is chosen; propensities sum to one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from thinkroute.types import Arm, ArmScore, ComputePrices, Decision, Estimate, Prediction, Price

POLICY_VERSION = "utility-1"

UNKNOWN_ARM = "no_prediction"
OVER_REQUEST_BUDGET = "over_usd_per_request"
OVER_SPEND_BUDGET = "over_spend_budget"
PRICE_UNKNOWN = "price_unknown"
LATENCY_UNKNOWN = "latency_unknown"
PRIOR = "prior"
"""The chosen arm's numbers are a declared prior: nobody has measured it."""


@dataclass(frozen=True, slots=True)
class Constraints:
    """What an arm must satisfy before it is scored. None: no such limit."""

    ruled_out: Mapping[str, tuple[str, ...]]
    """Arm id → reason codes, for arms the caller has already ruled out (capabilities, context window)."""
    usd_per_request: float | None = None
    """Highest predicted dollars of one request."""
    usd_left: float | None = None
    """Dollars left in the spend budget."""


@dataclass(frozen=True, slots=True)
class Exploration:
    """ε-greedy exploration with the draw supplied, so that the choice stays pure and replays exactly."""

    share: float = 0.0
    """Probability of drawing uniformly among the allowed arms, in [0, 1]."""
    draw: float = 0.0
    """A number in [0, 1), uniform over requests."""


def choose(
    arms: Sequence[Arm],
    predictions: Mapping[str, Prediction],
    prices: ComputePrices,
    model_prices: Mapping[str, Price],
    constraints: Constraints | None = None,
    exploration: Exploration | None = None,
    router: str = "none",
) -> Decision | None:
    """Pick the arm with the highest utility among the allowed ones, or None when none is allowed.

    Ties go to the cheaper arm, then to the arm that thinks less, then to the smaller id. An arm whose cost is
    unknown cannot be compared in dollars: it is ruled out while an arm of known cost is allowed, and while any dollar
    limit is set; when no arm's cost is known the cost term is dropped for all and `price_unknown` is in the reasons.
    While latency has a price, the same holds for latency and `latency_unknown`.

    Args:
        arms: Candidates, any order.
        predictions: By arm id. An arm without one is not allowed.
        prices: The dial: value of an answer and the shadow prices.
        model_prices: By model name; used where a prediction has tokens but no measured dollars.
        constraints: Hard limits.
        exploration: Share of uniform draws, and this request's draw.
        router: Name and version of what made the predictions.
    """
    constraints = constraints or Constraints({})
    exploration = exploration or Exploration()
    ordered = sorted(arms, key=lambda arm: arm.id)
    costs = {arm.id: expected_cost_usd(arm, predictions.get(arm.id), model_prices) for arm in ordered}
    reasons = {
        arm.id: _ruled_out(arm, predictions.get(arm.id), costs[arm.id], constraints) for arm in ordered
    }
    allowed = [arm for arm in ordered if not reasons[arm.id]]
    allowed, price_notes = _comparable(allowed, costs, PRICE_UNKNOWN, reasons)
    latency_notes: tuple[str, ...] = ()
    if prices.mu_latency_usd_per_s:
        latencies = {arm.id: _mean(predictions[arm.id].latency_s) for arm in allowed}
        allowed, latency_notes = _comparable(allowed, latencies, LATENCY_UNKNOWN, reasons)
    if not allowed:
        return None
    utilities = {arm.id: _utility(predictions[arm.id], costs[arm.id], prices) for arm in allowed}
    best = min(
        allowed,
        key=lambda arm: (-utilities[arm.id], costs[arm.id] or 0.0, arm.effort.rank, arm.id),
    )
    propensities = {
        arm.id: exploration.share / len(allowed) + (1 - exploration.share) * (arm is best) for arm in allowed
    }
    chosen = _draw(allowed, best, exploration)
    basis_notes = (PRIOR,) if predictions[chosen.id].basis == "prior" else ()
    codes = (_code(chosen, best, allowed), *basis_notes, *price_notes, *latency_notes)
    return Decision(
        arm=chosen,
        scores=tuple(
            _score(arm, predictions.get(arm.id), costs, reasons, utilities, propensities) for arm in ordered
        ),
        propensity=propensities[chosen.id],
        reason_codes=codes,
        prices=prices,
        policy_version=POLICY_VERSION,
        router=router,
    )


def expected_cost_usd(
    arm: Arm, prediction: Prediction | None, model_prices: Mapping[str, Price]
) -> float | None:
    """Predicted dollars of an arm: predicted tokens at today's price, else the dollars the router learned.

    None when neither is known. Today's price comes first, so that a price change needs no new router.
    """
    if prediction is None:
        return None
    price = model_prices.get(arm.models[0]) if len(arm.models) == 1 else None
    prompt, answer = prediction.prompt_tokens, prediction.answer_tokens
    reasoning = _reasoning_tokens(arm, prediction)
    if price is not None and prompt is not None and answer is not None and reasoning is not None:
        return price.cost_usd(prompt.mean, reasoning + answer.mean)
    return prediction.cost_usd.mean if prediction.cost_usd is not None else None


def _reasoning_tokens(arm: Arm, prediction: Prediction) -> float | None:
    """Predicted thinking tokens; None where an arm asked to think has no prediction of them.

    At `default` effort nothing is asked, so a table without that column counts everything as answer.
    """
    if prediction.reasoning_tokens is not None:
        return prediction.reasoning_tokens.mean
    return 0.0 if arm.effort.level in ("off", "default") else None


def _ruled_out(
    arm: Arm, prediction: Prediction | None, cost_usd: float | None, limits: Constraints
) -> tuple[str, ...]:
    if given := limits.ruled_out.get(arm.id):
        return given
    if prediction is None:
        return (UNKNOWN_ARM,)
    if limits.usd_per_request is None and limits.usd_left is None:
        return ()
    reasons: list[str] = []
    for limit, code in (
        (limits.usd_per_request, OVER_REQUEST_BUDGET),
        (limits.usd_left, OVER_SPEND_BUDGET),
    ):
        if limit is not None and (cost_usd is None or cost_usd > limit):
            reasons.append(PRICE_UNKNOWN if cost_usd is None else code)
    return tuple(dict.fromkeys(reasons))


def _utility(prediction: Prediction, cost_usd: float | None, prices: ComputePrices) -> float:
    latency_s = prediction.latency_s.mean if prediction.latency_s else 0.0
    return (
        prices.value_usd * prediction.quality.mean
        - (1 + prices.mu_spend) * (cost_usd or 0.0)
        - prices.mu_latency_usd_per_s * latency_s
    )


def _draw(allowed: Sequence[Arm], best: Arm, exploration: Exploration) -> Arm:
    """The same draw decides whether to explore and, rescaled, which arm: one number replays the choice."""
    if exploration.draw >= exploration.share:
        return best
    position = math.floor(exploration.draw / exploration.share * len(allowed))
    return allowed[min(position, len(allowed) - 1)]


def _code(chosen: Arm, best: Arm, allowed: Sequence[Arm]) -> str:
    return "only_arm" if len(allowed) == 1 else "best_utility" if chosen is best else "explored"


def _comparable(
    arms: Sequence[Arm],
    known: Mapping[str, float | None],
    code: str,
    reasons: dict[str, tuple[str, ...]],
) -> tuple[list[Arm], tuple[str, ...]]:
    """Arms that can be compared in one quantity: those where it is known, or all of them when it is known of none.

    Arms left out get `code` as their reason; when none is known `code` is returned as a note on the decision.
    """
    if all(known[arm.id] is None for arm in arms):
        return list(arms), (code,) if arms else ()
    for arm in arms:
        if known[arm.id] is None:
            reasons[arm.id] = (code,)
    return [arm for arm in arms if known[arm.id] is not None], ()


def _mean(estimate: Estimate | None) -> float | None:
    return None if estimate is None else float(estimate.mean)


def _score(
    arm: Arm,
    prediction: Prediction | None,
    costs: Mapping[str, float | None],
    reasons: Mapping[str, tuple[str, ...]],
    utilities: Mapping[str, float],
    propensities: Mapping[str, float],
) -> ArmScore:
    arm_id = arm.id
    return ArmScore(
        arm_id=arm_id,
        allowed=arm_id in utilities,
        reasons=reasons[arm_id],
        utility_usd=utilities.get(arm_id),
        quality=prediction.quality if prediction else None,
        cost_usd=costs[arm_id],
        latency_s=_mean(prediction.latency_s) if prediction else None,
        reasoning_tokens=_mean(prediction.reasoning_tokens) if prediction else None,
        answer_tokens=_mean(prediction.answer_tokens) if prediction else None,
        propensity=propensities.get(arm_id, 0.0),
    )
