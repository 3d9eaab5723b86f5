"""Another policy on a decision log: logged choices as arrays, routers as target policies, and what each would have earned.

Owns what of a log counts, how a router becomes a target (the policy's formula at a value of a right answer, among the
arms that were allowed), and cross-fitting: a router or reward model fitted on the log itself is never used on questions
it was fitted on. The estimators are `offpolicy`. What is estimated is the mean over *graded* traffic: if users grade
good answers of one arm more often than of another, no estimator can tell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thinkroute.errors import DataError
from thinkroute.evaluation.frontier import choose_many, predicted_costs
from thinkroute.evaluation.metrics import IntArray
from thinkroute.evaluation.offpolicy import Logged
from thinkroute.evaluation.splits import text_groups
from thinkroute.routers.base import Router
from thinkroute.routers.table import FloatArray, OutcomeTable
from thinkroute.store import DecisionRecord
from thinkroute.types import Query

PINNED = "pinned"
"""Reason code of a request whose caller named the model: the policy had no say."""


@dataclass(frozen=True)
class Traffic:
    """Graded choices of a log."""

    texts: tuple[str, ...]
    arms: tuple[str, ...]
    """Every arm that was allowed or called in any of them."""
    action_Q: IntArray
    propensity_Q: FloatArray
    quality_Q: FloatArray
    cost_usd_Q: FloatArray
    """NaN where unknown."""
    allowed_QA: NDArray[np.bool_]
    """Arms that came into question."""
    possible_QA: NDArray[np.bool_] | None
    """Arms the logging policy could have called; None where the log holds only the called arm's propensity."""
    left_out: Mapping[str, int]
    """Why other records do not count, and how many."""

    def __len__(self) -> int:
        return len(self.texts)

    def logged(self, reward_Q: FloatArray) -> Logged:
        """The choices with one of their rewards."""
        return Logged(self.action_Q, self.propensity_Q, reward_Q, self.possible_QA)

    def table(self) -> OutcomeTable:
        """The choices as outcomes, one row each, to fit on."""
        shape, rows = (len(self), len(self.arms)), np.arange(len(self))
        quality_QA, cost_QA = np.full(shape, np.nan), np.full(shape, np.nan)
        quality_QA[rows, self.action_Q] = self.quality_Q
        cost_QA[rows, self.action_Q] = self.cost_usd_Q
        known = not np.isnan(cost_QA).all()
        return OutcomeTable(
            query_ids=tuple(map(str, rows)),
            texts=self.texts,
            arms=self.arms,
            measured={"quality": quality_QA, "cost_usd": cost_QA} if known else {"quality": quality_QA},
        )


@dataclass(frozen=True)
class Guess:
    """What a router expects of every logged question and arm."""

    quality_QA: FloatArray
    cost_usd_QA: FloatArray
    """NaN where unknown."""


def traffic_of_records(records: Iterable[DecisionRecord]) -> Traffic:
    """The choices of a decision log that an estimate can rest on.

    Raises:
        DataError: there is none; the message says why.
    """
    left_out: Counter[str] = Counter()
    kept: list[DecisionRecord] = []
    for record in records:
        reason = _unusable(record)
        if reason:
            left_out[reason] += 1
        else:
            kept.append(record)
    if not kept:
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "it is empty"
        raise DataError(f"the log holds no choice to estimate from: {why}")
    arms = tuple(sorted({score.arm_id for record in kept for score in record.scores if score.allowed}))
    column = {arm: place for place, arm in enumerate(arms)}
    propensity_QA = np.full((len(kept), len(arms)), np.nan)
    for row, record in enumerate(kept):
        for score in record.scores:
            if score.allowed:
                propensity_QA[row, column[score.arm_id]] = score.propensity
    return Traffic(
        texts=tuple(record.query_text or "" for record in kept),
        arms=arms,
        action_Q=np.array([column[record.arm_id or ""] for record in kept], dtype=np.intp),
        propensity_Q=_numbers(record.propensity for record in kept),
        quality_Q=_numbers(record.quality for record in kept),
        cost_usd_Q=_numbers(record.cost_usd for record in kept),
        allowed_QA=~np.isnan(propensity_QA),
        possible_QA=np.nan_to_num(propensity_QA) > 0,
        left_out=dict(left_out),
    )


def traffic_of_table(table: OutcomeTable) -> Traffic:
    """The choices of an exported decision log: every graded cell is one.

    Raises:
        DataError: the table has no propensities, or no graded cell.
    """
    if table.propensity_QA is None:
        raise DataError(
            "the table has no column 'propensity': only a decision log (`thinkroute export`) tells how likely each "
            "choice was"
        )
    row_Q, action_Q = np.nonzero(~np.isnan(table.quality_QA))
    if not row_Q.size:
        raise DataError("the table has no graded answer")
    propensity_QA = table.propensity_QA[row_Q]
    known_QA = ~np.isnan(propensity_QA)
    # A log that holds the called arm's propensity alone says nothing of the others: any may have come into question.
    complete = bool((np.abs(np.nansum(propensity_QA, axis=1) - 1) < 1e-6).all()) and bool(
        known_QA.sum() > row_Q.size
    )
    cost_QA = table.cost_usd_QA
    return Traffic(
        texts=tuple(table.texts[int(row)] for row in row_Q),
        arms=table.arms,
        action_Q=action_Q,
        propensity_Q=table.propensity_QA[row_Q, action_Q],
        quality_Q=table.quality_QA[row_Q, action_Q],
        cost_usd_Q=np.full(len(row_Q), np.nan) if cost_QA is None else cost_QA[row_Q, action_Q],
        allowed_QA=known_QA if complete else np.ones_like(known_QA),
        possible_QA=np.nan_to_num(propensity_QA) > 0 if complete else None,
        left_out={},
    )


def guess(router: Router, traffic: Traffic) -> Guess:
    """What a router fitted elsewhere expects."""
    predictions = router.predict_batch([Query(text) for text in traffic.texts], traffic.arms)
    unknown = np.full((len(traffic), len(traffic.arms)), np.nan)
    cost_QA = predicted_costs(predictions, "usd") if "cost_usd" in predictions.moments else unknown
    return Guess(predictions.quality.mean_QA, cost_QA)


def cross_guess(
    fit: Callable[[OutcomeTable], Router], traffic: Traffic, folds: int = 5, seed: int = 0
) -> Guess:
    """What a router fitted on the log expects, each question judged by a fit that never saw it."""
    table = traffic.table()
    group_Q = text_groups(table)
    count = int(group_Q.max()) + 1
    if count < 2:
        raise DataError("cross-fitting needs at least two different questions in the log")
    part_of_group = np.random.default_rng(seed).permutation(count) % min(folds, count)
    part_Q = part_of_group[group_Q]
    quality_QA, cost_QA = np.empty(traffic.allowed_QA.shape), np.empty(traffic.allowed_QA.shape)
    for part in np.unique(part_Q):
        inside_Q = part_Q == part
        found = guess(fit(table.take(~inside_Q)), traffic)
        quality_QA[inside_Q], cost_QA[inside_Q] = found.quality_QA[inside_Q], found.cost_usd_QA[inside_Q]
    return Guess(quality_QA, cost_QA)


def target(expected: Guess, traffic: Traffic, value_usd: float, explore: float = 0.0) -> FloatArray:
    """Probabilities (Q, A) of the policy that picks value · quality − cost among the allowed arms.

    Args:
        expected: What the router expects.
        traffic: Which arms are allowed, and what arms cost on average where the router does not know.
        value_usd: Dollars a right answer is worth; infinity means quality alone.
        explore: Share of even draws among the allowed arms.
    """
    mean_A = _mean_costs(traffic)
    cost_QA = np.where(np.isnan(expected.cost_usd_QA), mean_A, expected.cost_usd_QA)
    if np.isinf(value_usd) or np.isnan(cost_QA).all():
        cost_QA = np.nan_to_num(cost_QA)
    comparable_QA = traffic.allowed_QA & ~np.isnan(cost_QA)
    # Where no allowed arm's cost is known, the choice is by quality alone, as the policy does.
    blind_Q = ~comparable_QA.any(axis=1)
    cost_QA[blind_Q] = 0.0
    choice_Q = choose_many(expected.quality_QA, cost_QA, value_usd, traffic.allowed_QA)
    probability_QA = explore * traffic.allowed_QA / traffic.allowed_QA.sum(axis=1, keepdims=True)
    probability_QA[np.arange(len(traffic)), choice_Q] += 1 - explore
    return probability_QA


def _mean_costs(traffic: Traffic) -> FloatArray:
    mean_A = np.full(len(traffic.arms), np.nan)
    for arm in range(len(traffic.arms)):
        cost = traffic.cost_usd_Q[traffic.action_Q == arm]
        known = cost[~np.isnan(cost)]
        if known.size:
            mean_A[arm] = known.mean()
    return mean_A


def _unusable(record: DecisionRecord) -> str | None:
    """Why a record is no logged choice; None when it is one."""
    allowed = [score.arm_id for score in record.scores if score.allowed]
    reasons = (
        (record.status != "ok" or record.arm_id is None, "failed or refused"),
        (PINNED in record.reason_codes, "pinned by the caller"),
        (record.arm_id not in allowed, "without the scores of the decision"),
        (record.quality is None, "not graded"),
        (record.query_text is None, "without the question's text (store.log_content is off)"),
    )
    return next((reason for applies, reason in reasons if applies), None)


def _numbers(values: Iterable[float | None]) -> FloatArray:
    known: Sequence[float] = [float("nan") if value is None else value for value in values]
    return np.array(known, dtype=np.float64)
