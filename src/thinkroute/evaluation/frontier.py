"""Sliding the value dial: predictions and a value per right answer in, choices and their real outcomes out.

The choice is the policy's formula, utility = value · quality − cost, for many queries at once (a test holds it
against `thinkroute.policy.choose`). A cell that was not measured cannot be replayed, so for that query its arm is
not allowed, for routers and baselines alike. Shape letters: V settings of the dial, Q queries, A arms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thinkroute.evaluation.metrics import IntArray
from thinkroute.routers.base import Predictions
from thinkroute.routers.table import FloatArray, OutcomeTable


@dataclass(frozen=True)
class Costs:
    """What a table's answers cost."""

    unit: str
    """`usd`, or `tokens` (generated ones) for tables without dollars."""
    cost_QA: FloatArray


@dataclass(frozen=True)
class Replay:
    """What choices would really have brought."""

    quality_VQ: FloatArray
    cost_VQ: FloatArray


def costs_of(table: OutcomeTable) -> Costs | None:
    """Measured costs: dollars, else generated tokens, else None."""
    if "cost_usd" in table.measures:
        return Costs("usd", table.measured["cost_usd"])
    generated = [table.measured[m] for m in ("reasoning_tokens", "answer_tokens") if m in table.measures]
    return Costs("tokens", np.sum(generated, axis=0)) if generated else None


def predicted_costs(predictions: Predictions, unit: str) -> FloatArray:
    """Predicted costs in the unit of `costs_of`, shape (Q, A), NaN where unknown."""
    moments = predictions.moments
    if unit == "usd":
        return moments["cost_usd"].mean_QA
    generated = [moments[m].mean_QA for m in ("reasoning_tokens", "answer_tokens") if m in moments]
    return np.sum(generated, axis=0)


def dial(cost_QA: FloatArray, steps: int = 80) -> FloatArray:
    """Values per right answer that reach from "always cheapest" to "best quality at any price".

    0 and infinity are the ends; between them the values are evenly spaced in the logarithm, from where a sure
    right answer is worth a small part of the cheapest call to where 0.1 % of quality outweighs the dearest.
    """
    with np.errstate(invalid="ignore"):
        mean_A = np.nanmean(cost_QA, axis=0)
    positive = mean_A[mean_A > 0]
    if not positive.size:
        return np.array([0.0, np.inf])
    low, high = float(positive.min()) / 30, float(positive.max()) * 1000
    return np.concatenate([[0.0], low * (high / low) ** np.linspace(0.0, 1.0, steps), [np.inf]])


def choose_many(
    quality_QA: FloatArray, cost_QA: FloatArray, value: float, allowed_QA: NDArray[np.bool_]
) -> IntArray:
    """The arm of highest value · quality − cost per query, shape (Q,); ties go to the cheaper, then the first arm.

    An infinite value means quality alone. Every row must allow an arm of known cost.
    """
    scored_QA = allowed_QA & ~np.isnan(cost_QA)
    utility_QA = quality_QA if np.isinf(value) else value * quality_QA - cost_QA
    utility_QA = np.where(scored_QA, utility_QA, -np.inf)
    best_QA = utility_QA == utility_QA.max(axis=1, keepdims=True)
    return np.where(best_QA & scored_QA, cost_QA, np.inf).argmin(axis=1)


def sweep(
    quality_QA: FloatArray, cost_QA: FloatArray, values_V: FloatArray, allowed_QA: NDArray[np.bool_]
) -> IntArray:
    """`choose_many` at every value of the dial, shape (V, Q)."""
    return np.stack([choose_many(quality_QA, cost_QA, float(value), allowed_QA) for value in values_V])


def replay(choice_VQ: IntArray, quality_QA: FloatArray, cost_QA: FloatArray) -> Replay:
    """Measured quality and cost of every choice."""
    rows = np.arange(len(quality_QA), dtype=np.intp)
    return Replay(quality_QA[rows, choice_VQ], cost_QA[rows, choice_VQ])
