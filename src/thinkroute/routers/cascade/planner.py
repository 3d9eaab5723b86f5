"""Stop, escalate or jump: the best plan of a cascade at today's price of compute, by backward induction.

Cascade routing (Dekoninck, Baader, Vechev: "A Unified Approach to Routing and Cascading for LLMs", arXiv 2410.10347)
treats routing and cascading as one choice among sequences of models, made anew after every answer. There a sequence
costs the sum of its models, whether or not it would go on to its end. Here *plans* are compared: what follows an answer
depends on that answer. Before anything ran this is routing; with one way on it is a cascade; skipping a stage is a jump.

worth(answer of k) = max(value · belief, best way on)
way on to k = E[worth(answer of k) | what is known] − price · E[cost of k | what is known]

The expectation is over scenarios, the training queries, whose answers at every stage are known: their mean over the
leaves that what is known falls into (`forest`). Where nothing can follow a stage, worth is linear in belief and the
expectation is the head's own. Laws (tests/routers/cascade): on situations that are leaves, the plan is the best of all
plans; as the price of compute rises, what stops never goes on again.
Shape letters: R rows (scenarios or queries), S stages, T trees, L leaves, M parts of a cost.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from thinkroute.routers.cascade.forest import Forest, IntArray
from thinkroute.routers.table import FloatArray

STOP = -1
NOBODY = 0
"""Owner of the situation before any stage ran; that of stage k's answer is k + 1."""


@dataclass(frozen=True)
class Situation:
    """What is known of many queries after the same stage, or before any."""

    owner: int
    belief_RS: FloatArray
    """Probability that each stage's answer is, or would be, right; NaN before the owner's stage."""
    cost_RSM: FloatArray
    """Expected cost of every stage, in parts."""
    leaf_RT: IntArray
    """Leaves of the owner's forest."""

    @property
    def quality_R(self) -> FloatArray:
        """Belief in the answer in hand; 0 when there is none."""
        return np.zeros(len(self.leaf_RT)) if self.owner == NOBODY else self.belief_RS[:, self.owner - 1]


@dataclass(frozen=True)
class Outlook:
    """What follows an answer, by leaf: means over the scenarios."""

    worth_TL: FloatArray
    quality_TL: FloatArray
    """Quality in the end."""
    cost_TLM: FloatArray
    """Further cost."""


@dataclass(frozen=True)
class Plan:
    """What to do in every situation, at one price of compute."""

    value_usd: float
    price_M: FloatArray
    """Dollars per unit of each part of a cost."""
    outlooks: Mapping[tuple[int, int], Outlook | None]
    """By owner and stage, for every way there is; None where nothing can follow the stage."""

    def ways(self, situation: Situation) -> FloatArray:
        """Utility of going on to each stage, shape (R, S); −inf where that is no way."""
        ways_RS = np.full(situation.belief_RS.shape, -np.inf)
        for (owner, stage), outlook in self.outlooks.items():
            if owner == situation.owner:
                worth_R = (
                    self.value_usd * situation.belief_RS[:, stage]
                    if outlook is None
                    else _mean_over_trees(outlook.worth_TL, situation.leaf_RT)
                )
                ways_RS[:, stage] = worth_R - situation.cost_RSM[:, stage] @ self.price_M
        return ways_RS

    def next_stage(self, situation: Situation) -> IntArray:
        """The stage to go on to, or `STOP`, per row."""
        ways_RS = self.ways(situation)
        best_R = ways_RS.max(axis=1)
        goes_R = np.isfinite(best_R)
        if situation.owner != NOBODY:
            goes_R &= self.value_usd * situation.quality_R < best_R
        return np.where(goes_R, ways_RS.argmax(axis=1), STOP)

    def expected(self, situation: Situation) -> tuple[FloatArray, FloatArray]:
        """Quality in the end, shape (R,), and further cost, shape (R, M), if the plan is followed."""
        next_R = self.next_stage(situation)
        quality_R = situation.quality_R.copy()
        cost_RM = np.zeros((len(next_R), len(self.price_M)))
        for stage in np.unique(next_R[next_R != STOP]).tolist():
            goes_R = next_R == stage
            outlook = self.outlooks[situation.owner, stage]
            cost_RM[goes_R] = situation.cost_RSM[goes_R, stage]
            if outlook is None:
                quality_R[goes_R] = situation.belief_RS[goes_R, stage]
            else:
                leaf_RT = situation.leaf_RT[goes_R]
                quality_R[goes_R] = _mean_over_trees(outlook.quality_TL, leaf_RT)
                cost_RM[goes_R] += _mean_over_trees(outlook.cost_TLM, leaf_RT)
        return quality_R, cost_RM


def solve(
    scenarios: Sequence[Situation],
    forests: Sequence[Forest],
    value_usd: float,
    price_M: FloatArray,
    allowed: Collection[int],
) -> Plan:
    """The best plan.

    Args:
        scenarios: By owner: what was known of the same training queries, from models that had not seen them.
        forests: By owner.
        value_usd: Worth of a right answer.
        price_M: Dollars per unit of each part of a cost.
        allowed: Stages that may run.
    """
    stages = len(scenarios) - 1
    outlooks: dict[tuple[int, int], Outlook | None] = {}
    plan = Plan(value_usd, price_M, outlooks)
    worth: list[FloatArray] = [np.empty(0)] * (stages + 1)
    quality, cost = list(worth), list(worth)
    for owner in reversed(range(stages + 1)):
        situation, forest = scenarios[owner], forests[owner]
        for stage in range(owner, stages):
            if stage not in allowed:
                continue
            if not any(later > stage for later in allowed):
                outlooks[owner, stage] = None
                continue
            outlooks[owner, stage] = Outlook(
                forest.leaf_means(situation.leaf_RT, worth[stage + 1]),
                forest.leaf_means(situation.leaf_RT, quality[stage + 1]),
                forest.leaf_means(situation.leaf_RT, cost[stage + 1]),
            )
        best_R = plan.ways(situation).max(axis=1, initial=-np.inf)
        worth[owner] = np.maximum(value_usd * situation.quality_R, best_R)
        quality[owner], cost[owner] = plan.expected(situation)
    return plan


def _mean_over_trees(value_TL: FloatArray, leaf_RT: IntArray) -> FloatArray:
    """What the leaves say, averaged; trailing axes are kept."""
    trees_T: IntArray = np.arange(leaf_RT.shape[1], dtype=np.intp)
    return value_TL[trees_T[None, :], leaf_RT].mean(axis=1)
