"""What another policy would have earned on logged traffic: off-policy estimators over choices with propensities.

Owns the estimators and their intervals; turning a decision log into arrays is `log_policy`. Shape letters: Q logged
choices, A arms. With r the logged reward, a the logged arm, p its propensity, π the target's probabilities,
w = π(a) / p and q̂ a reward model:

    IPS   mean(w · r)                                 unbiased
    SNIPS Σ w · r / Σ w                               biased by O(1/Q), smaller variance, never outside the rewards
    DM    mean(Σ_a π(a) · q̂(a))                       as biased as its model
    DR    mean(Σ_a π(a) · q̂(a) + w · (r − q̂(a)))      unbiased, and precise where the model is good

IPS: Horvitz and Thompson 1952; SNIPS: Swaminathan and Joachims 2015; DR: Dudík, Langford and Li 2011
(arXiv 1103.4601). They hold when the propensities are the ones really used, every arm the target wants had one above
0, and q̂ was not fitted on the choices it is used on. The first two are checked as far as a log can tell: `weight_mean`
must be 1 within its error. Weights may be clipped (`clip`), which trades variance for a bias towards 0 (IPS) or towards
the model (DR). Intervals are normal ones from the standard error; for SNIPS from the delta method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from thinkroute.errors import DataError
from thinkroute.evaluation.metrics import IntArray
from thinkroute.routers.table import FloatArray

Method = Literal["ips", "snips", "dm", "dr"]

_NORMAL_95: Final = 1.959963984540054
_SUM_ERROR: Final = 1e-6
_UNSEEN_ALLOWED: Final = 1e-9


@dataclass(frozen=True)
class Logged:
    """Choices that were made and what they brought.

    Raises:
        DataError: a propensity is missing, 0 or above 1, or a reward is missing; the message names the choice.
    """

    action_Q: IntArray
    """Which arm was called."""
    propensity_Q: FloatArray
    """Probability with which it was."""
    reward_Q: FloatArray
    possible_QA: NDArray[np.bool_] | None = None
    """Which arms the logging policy could have called; None where the log does not say."""

    def __post_init__(self) -> None:
        bad = ~((self.propensity_Q > 0) & (self.propensity_Q <= 1))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            value = self.propensity_Q[row]
            what = "no propensity" if np.isnan(value) else f"propensity {value:g}"
            raise DataError(
                f"logged choice {row} has {what} ({int(bad.sum())} of {bad.size} such): the probability with which "
                "the logging policy made the choice must be known and in (0, 1]"
            )
        if np.isnan(self.reward_Q).any():
            row = int(np.flatnonzero(np.isnan(self.reward_Q))[0])
            raise DataError(f"logged choice {row} has no reward: leave ungraded choices out")


class OffPolicyEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """A mean reward per request under the target policy."""

    method: Method
    clip: float | None
    mean: float
    std_error: float
    low: float
    high: float
    """95 % interval."""


class Overlap(msgspec.Struct, frozen=True, kw_only=True):
    """How much a log can say about a target."""

    choices: int
    effective_choices: float
    """(Σ w)² / Σ w²: how many choices of an evenly weighted sample would say as much."""
    weight_mean: float
    """1 within its error where the propensities are right and the target is covered."""
    weight_mean_error: float
    weight_most: float
    agreed_share: float
    """Mean probability of the logged arm under the target."""


def weights(logged: Logged, target_QA: FloatArray, clip: float | None = None) -> FloatArray:
    """Importance weights π(a) / p, at most `clip`.

    Raises:
        DataError: the target is no probability, or wants arms that the log could not have called.
    """
    _check_target(logged, target_QA)
    weight_Q = target_QA[np.arange(len(logged.action_Q)), logged.action_Q] / logged.propensity_Q
    return weight_Q if clip is None else np.minimum(weight_Q, clip)


def overlap(logged: Logged, target_QA: FloatArray) -> Overlap:
    """How well the log covers the target."""
    weight_Q = weights(logged, target_QA)
    squares = float((weight_Q**2).sum())
    return Overlap(
        choices=len(weight_Q),
        effective_choices=float(weight_Q.sum()) ** 2 / squares if squares > 0 else 0.0,
        weight_mean=float(weight_Q.mean()),
        weight_mean_error=_mean_error(weight_Q),
        weight_most=float(weight_Q.max()),
        agreed_share=float(target_QA[np.arange(len(weight_Q)), logged.action_Q].mean()),
    )


def ips(logged: Logged, target_QA: FloatArray, clip: float | None = None) -> OffPolicyEstimate:
    """Inverse propensity scoring."""
    value_Q = weights(logged, target_QA, clip) * logged.reward_Q
    return _estimate("ips", clip, float(value_Q.mean()), _mean_error(value_Q))


def snips(logged: Logged, target_QA: FloatArray, clip: float | None = None) -> OffPolicyEstimate:
    """Self-normalised inverse propensity scoring; NaN when the target agrees with no logged choice."""
    weight_Q = weights(logged, target_QA, clip)
    total = float(weight_Q.sum())
    if total == 0:
        return _estimate("snips", clip, float("nan"), float("nan"))
    mean = float(weight_Q @ logged.reward_Q) / total
    error = float(np.sqrt(((weight_Q * (logged.reward_Q - mean)) ** 2).sum())) / total
    return _estimate("snips", clip, mean, error)


def direct(logged: Logged, target_QA: FloatArray, model_QA: FloatArray) -> OffPolicyEstimate:
    """The reward model's mean under the target; its interval knows nothing of the model's own error."""
    _check_target(logged, target_QA)
    value_Q = _expected(target_QA, model_QA)
    return _estimate("dm", None, float(value_Q.mean()), _mean_error(value_Q))


def doubly_robust(
    logged: Logged, target_QA: FloatArray, model_QA: FloatArray, clip: float | None = None
) -> OffPolicyEstimate:
    """Doubly robust: the model's mean, corrected by the weighted errors on what was logged."""
    value_Q = doubly_robust_rows(logged, target_QA, model_QA, clip)
    return _estimate("dr", clip, float(value_Q.mean()), _mean_error(value_Q))


def doubly_robust_rows(
    logged: Logged, target_QA: FloatArray, model_QA: FloatArray, clip: float | None = None
) -> FloatArray:
    """What each choice adds to the doubly robust mean: differences of two targets can be taken row by row.

    Raises:
        DataError: the model has no number for an arm that the target wants.
    """
    weight_Q = weights(logged, target_QA, clip)
    # Where the target does not want the logged arm its weight is 0, and so is whatever the model lacks there.
    logged_model_Q = np.nan_to_num(model_QA[np.arange(len(weight_Q)), logged.action_Q])
    return _expected(target_QA, model_QA) + weight_Q * (logged.reward_Q - logged_model_Q)


def on_policy(logged: Logged) -> OffPolicyEstimate:
    """What the logging policy itself earned: the plain mean, every weight 1."""
    return _estimate("ips", None, float(logged.reward_Q.mean()), _mean_error(logged.reward_Q))


def difference(value_Q: FloatArray, reward_Q: FloatArray) -> OffPolicyEstimate:
    """Doubly robust gain over the logging policy, paired choice by choice."""
    gain_Q = value_Q - reward_Q
    return _estimate("dr", None, float(gain_Q.mean()), _mean_error(gain_Q))


def _expected(target_QA: FloatArray, model_QA: FloatArray) -> FloatArray:
    """The model's reward under the target, per choice."""
    wanted_QA = target_QA > 0
    if np.isnan(model_QA[wanted_QA]).any():
        raise DataError("the reward model has no number for an arm that the target wants")
    return np.where(wanted_QA, target_QA * np.nan_to_num(model_QA), 0.0).sum(axis=1)


def _estimate(method: Method, clip: float | None, mean: float, error: float) -> OffPolicyEstimate:
    return OffPolicyEstimate(
        method=method,
        clip=clip,
        mean=mean,
        std_error=error,
        low=mean - _NORMAL_95 * error,
        high=mean + _NORMAL_95 * error,
    )


def _mean_error(value_Q: FloatArray) -> float:
    return float(value_Q.std(ddof=1) / np.sqrt(len(value_Q))) if len(value_Q) > 1 else float("nan")


def _check_target(logged: Logged, target_QA: FloatArray) -> None:
    if target_QA.shape[0] != len(logged.action_Q) or (target_QA < 0).any():
        raise DataError("the target policy needs one row of probabilities >= 0 per logged choice")
    total_Q = target_QA.sum(axis=1)
    if (np.abs(total_Q - 1) > _SUM_ERROR).any():
        row = int(np.abs(total_Q - 1).argmax())
        raise DataError(f"the target's probabilities of choice {row} sum to {total_Q[row]:g}, not to 1")
    if logged.possible_QA is None:
        return
    unseen = float(np.where(logged.possible_QA, 0.0, target_QA).sum(axis=1).mean())
    if unseen > _UNSEEN_ALLOWED:
        raise DataError(
            f"{unseen:.1%} of the target's choices go to arms that the logging policy would never have called there "
            "(propensity 0): no log can tell what they earn. Log with exploration (policy.explore above 0)"
        )
