"""RouterArena's score and optimality ratios (arXiv 2510.00202; `llm_evaluation/run.py` of its repository).

C = (log2 c_max − log2 c) / (log2 c_max − log2 c_min) with c in dollars per 1,000 queries, clipped to
[c_min, c_max]; S = (1 + β) · A · C / (β · A + C). With β = 0.1 it is nearly the accuracy A.
Selection and cost are over queries the router answered rightly (quality 1), as in its code. Deviation: its code takes
the accuracy ratio over those queries too, where it is always 1; here it is router over oracle on all queries, as the
board reports it.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from thinkroute.evaluation.metrics import IntArray
from thinkroute.evaluation.scores import ArenaScore
from thinkroute.routers.table import FloatArray

BETA: Final = 0.1
COST_HIGH: Final = 200.0
"""Dollars per 1,000 queries at which C is 0."""
COST_LOW: Final = 0.0044
"""Dollars per 1,000 queries at which C is 1."""


def arena_score(accuracy: float, usd_per_1000: float, beta: float = BETA) -> float:
    """S of a mean accuracy at a mean cost. Free answers cost c_min."""
    cost = min(max(usd_per_1000, COST_LOW), COST_HIGH)
    cheapness = (math.log2(COST_HIGH) - math.log2(cost)) / (math.log2(COST_HIGH) - math.log2(COST_LOW))
    if beta * accuracy + cheapness == 0:
        return 0.0
    return (1 + beta) * accuracy * cheapness / (beta * accuracy + cheapness)


def arena(
    choice_VR: IntArray, quality_RA: FloatArray, cost_usd_RA: FloatArray, oracle_R: IntArray
) -> ArenaScore:
    """Score of the choices at the last setting of the dial, and the best along it."""
    rows = np.arange(len(quality_RA), dtype=np.intp)
    quality_VR, cost_VR = quality_RA[rows, choice_VR], cost_usd_RA[rows, choice_VR]
    score_V = [
        arena_score(float(quality), float(cost) * 1000)
        for quality, cost in zip(quality_VR.mean(axis=1), cost_VR.mean(axis=1), strict=True)
    ]
    right_RA = quality_RA >= 1
    cheapest_R = np.where(right_RA, np.nan_to_num(cost_usd_RA, nan=np.inf), np.inf).min(axis=1)
    right_R = quality_VR[-1] >= 1
    spent = float(cost_VR[-1][right_R].sum())
    return ArenaScore(
        score=score_V[-1],
        best_score=max(score_V),
        optimal_selection=_ratio(float((cost_VR[-1] <= cheapest_R)[right_R].sum()), int(right_R.sum())),
        optimal_cost=_ratio(float(cheapest_R[right_R].sum()), spent),
        optimal_accuracy=_ratio(float(quality_VR[-1].mean()), float(quality_RA[rows, oracle_R].mean())),
    )


def _ratio(value: float, whole: float) -> float | None:
    return value / whole if whole > 0 else None
