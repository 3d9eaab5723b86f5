"""Whether probabilities mean what they say: Platt scaling, expected calibration error, reliability bins, AUROC.

Owns the arithmetic on arrays; drawing is the command's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_STEPS: Final = 50
_RIDGE: Final = 1e-3
"""Pull of the slope towards 1 and of the shift towards 0, in rows: separable rows must not give an infinite slope."""


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows whose predicted probability lies close together."""

    predicted: float
    """Mean predicted probability."""
    observed: float
    """Mean outcome."""
    weight: float
    """Share of all rows."""


def sigmoid(logit: Floats) -> Floats:
    """1 / (1 + exp(−x)), without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * logit))


def platt(logit_Q: Floats, target_Q: Floats, weight_Q: Floats | None = None) -> tuple[float, float]:
    """Slope and shift that make `sigmoid(slope · logit + shift)` the probability of the target (Platt, 1999).

    Targets in [0, 1] may be shares. Newton's method on the log loss.
    """
    weight_Q = np.ones_like(logit_Q) if weight_Q is None else weight_Q
    design_Q2 = np.stack([logit_Q, np.ones_like(logit_Q)], axis=1)
    found = np.array([1.0, 0.0])
    for _ in range(_STEPS):
        probability_Q = sigmoid(design_Q2 @ found)
        slope = design_Q2.T @ (weight_Q * (probability_Q - target_Q)) + _RIDGE * (found - [1.0, 0.0])
        curve_Q = weight_Q * probability_Q * (1.0 - probability_Q)
        step = np.linalg.solve((design_Q2 * curve_Q[:, None]).T @ design_Q2 + _RIDGE * np.eye(2), slope)
        found = found - step
        if float(np.abs(step).max()) < 1e-9:
            break
    return float(found[0]), float(found[1])


def reliability(probability_Q: Floats, target_Q: Floats, bins: int = 10) -> list[ReliabilityBin]:
    """Bins of equally many rows, lowest probabilities first; fewer bins than asked for when rows are few."""
    order = np.argsort(probability_Q, kind="stable")
    parts = np.array_split(order, min(bins, max(len(order), 1)))
    return [
        ReliabilityBin(
            float(probability_Q[part].mean()), float(target_Q[part].mean()), len(part) / len(probability_Q)
        )
        for part in parts
        if len(part)
    ]


def expected_calibration_error(probability_Q: Floats, target_Q: Floats, bins: int = 10) -> float:
    """Mean distance between predicted and observed over bins of equally many rows."""
    found = reliability(probability_Q, target_Q, bins)
    return sum(part.weight * abs(part.predicted - part.observed) for part in found)


def auroc(score_Q: Floats, positive_Q: NDArray[np.bool_]) -> float:
    """Chance that a positive row scores above a negative one, ties counting half; NaN without both kinds."""
    positives, negatives = int(positive_Q.sum()), int((~positive_Q).sum())
    if not positives or not negatives:
        return float("nan")
    rank_sum = float(ranks(score_Q)[positive_Q].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def spearman(left_Q: Floats, right_Q: Floats) -> float:
    """Rank correlation, ties sharing their mean rank."""
    return float(np.corrcoef(ranks(left_Q), ranks(right_Q))[0, 1])


def ranks(values_Q: Floats) -> Floats:
    """Ranks from 1, ties sharing their mean."""
    _, place_Q, count_U = np.unique(values_Q, return_inverse=True, return_counts=True)
    last_U = np.cumsum(count_U).astype(np.float64)
    return (last_U - (count_U - 1) / 2.0)[place_Q]
