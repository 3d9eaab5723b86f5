"""What a decision log says of other policies, as one record. Owns which estimators are shown and which warnings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from thinkroute.evaluation.log_policy import Guess, Traffic, target
from thinkroute.evaluation.offpolicy import (
    Logged,
    OffPolicyEstimate,
    Overlap,
    difference,
    direct,
    doubly_robust,
    doubly_robust_rows,
    ips,
    on_policy,
    overlap,
    snips,
)
from thinkroute.routers.table import FloatArray

_FEW: Final = 100
_WEIGHT_ERRORS: Final = 4.0
"""Standard errors that the mean weight may lie from 1 before something is wrong with the propensities."""


@dataclass(frozen=True)
class Plan:
    """What is estimated, and how."""

    value_usd: float = float("inf")
    """Dollars a right answer is worth to the target policies; infinity: quality alone."""
    explore: float = 0.0
    """Share of even draws of the target policies."""
    clip: float | None = None
    """Largest weight of the clipped variants; None: no clipped variants."""


class TargetScore(msgspec.Struct, frozen=True, kw_only=True):
    """One target policy."""

    name: str
    overlap: Overlap
    quality: list[OffPolicyEstimate]
    cost_usd: list[OffPolicyEstimate]
    """Empty when the cost of some choice is unknown."""
    quality_gain: OffPolicyEstimate
    """Doubly robust, over the logging policy."""
    cost_gain_usd: OffPolicyEstimate | None
    arm_shares: dict[str, float]
    warnings: list[str]


class LogReport(msgspec.Struct, frozen=True, kw_only=True):
    """Off-policy evaluation of a decision log."""

    choices: int
    left_out: dict[str, int]
    arms: list[str]
    value_usd: float
    explore: float
    reward_model: str
    logging_quality: OffPolicyEstimate
    logging_cost_usd: OffPolicyEstimate | None
    logging_arm_shares: dict[str, float]
    targets: list[TargetScore]


def report_log(
    traffic: Traffic,
    targets: Mapping[str, Guess],
    reward_model: Callable[[], Guess],
    plan: Plan,
    *,
    model_name: str,
) -> LogReport:
    """Estimate what each target policy would have earned.

    Args:
        traffic: Logged choices.
        targets: By name, what the router behind a target expects.
        reward_model: What the doubly robust estimates expect; must be cross-fitted, or fitted elsewhere.
        plan: Value of a right answer, exploration and clipping.
        model_name: What the reward model is called in the report.

    Raises:
        DataError: a propensity is missing or 0, or a target wants arms that the log could not have called.
    """
    model = reward_model()
    quality = traffic.logged(traffic.quality_Q)
    priced = not np.isnan(traffic.cost_usd_Q).any()
    cost = traffic.logged(traffic.cost_usd_Q) if priced else None
    return LogReport(
        choices=len(traffic),
        left_out=dict(traffic.left_out),
        arms=list(traffic.arms),
        value_usd=plan.value_usd,
        explore=plan.explore,
        reward_model=model_name,
        logging_quality=on_policy(quality),
        logging_cost_usd=on_policy(cost) if cost else None,
        logging_arm_shares=_shares(np.eye(len(traffic.arms))[traffic.action_Q], traffic.arms),
        targets=[_score(name, guess, model, traffic, plan) for name, guess in targets.items()],
    )


def _score(name: str, guess: Guess, model: Guess, traffic: Traffic, plan: Plan) -> TargetScore:
    target_QA = target(guess, traffic, plan.value_usd, plan.explore)
    quality = traffic.logged(traffic.quality_Q)
    model_cost_QA = _filled(model.cost_usd_QA, traffic)
    cost = None if np.isnan(traffic.cost_usd_Q).any() else traffic.logged(traffic.cost_usd_Q)
    seen = overlap(quality, target_QA)
    return TargetScore(
        name=name,
        overlap=seen,
        quality=_estimates(quality, target_QA, model.quality_QA, plan.clip),
        cost_usd=[] if cost is None else _estimates(cost, target_QA, model_cost_QA, plan.clip),
        quality_gain=_gain(quality, target_QA, model.quality_QA),
        cost_gain_usd=None if cost is None else _gain(cost, target_QA, model_cost_QA),
        arm_shares=_shares(target_QA, traffic.arms),
        warnings=_warnings(seen),
    )


def _estimates(
    logged: Logged, target_QA: FloatArray, model_QA: FloatArray, clip: float | None
) -> list[OffPolicyEstimate]:
    found = [
        ips(logged, target_QA),
        snips(logged, target_QA),
        direct(logged, target_QA, model_QA),
        doubly_robust(logged, target_QA, model_QA),
    ]
    if clip is not None:
        found += [
            ips(logged, target_QA, clip),
            snips(logged, target_QA, clip),
            doubly_robust(logged, target_QA, model_QA, clip),
        ]
    return found


def _gain(logged: Logged, target_QA: FloatArray, model_QA: FloatArray) -> OffPolicyEstimate:
    return difference(doubly_robust_rows(logged, target_QA, model_QA), logged.reward_Q)


def _filled(cost_usd_QA: FloatArray, traffic: Traffic) -> FloatArray:
    """The model's costs; where it has none, the mean cost of all choices. DR is unbiased whatever stands there."""
    known = traffic.cost_usd_Q[~np.isnan(traffic.cost_usd_Q)]
    return np.where(np.isnan(cost_usd_QA), known.mean() if known.size else 0.0, cost_usd_QA)


def _shares(target_QA: FloatArray, arms: Sequence[str]) -> dict[str, float]:
    return {arm: float(share) for arm, share in zip(arms, target_QA.mean(axis=0), strict=True)}


def _warnings(seen: Overlap) -> list[str]:
    found: list[str] = []
    if seen.effective_choices < _FEW:
        found.append(
            f"only {seen.effective_choices:.0f} effective choices of {seen.choices}: intervals are wide and not exact"
        )
    off = abs(seen.weight_mean - 1)
    if off > _WEIGHT_ERRORS * seen.weight_mean_error and off > 0.01:
        found.append(
            f"the mean weight is {seen.weight_mean:.3f} and should be 1: the propensities are not the ones used, or the "
            "target wants arms that were never called"
        )
    return found
