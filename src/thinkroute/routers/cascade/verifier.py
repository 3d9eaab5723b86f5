"""The verifier head: the calibrated probability that an answer is right, and that a later stage's would be.

Penalised logistic regression on standardised features, its logit recalibrated by Platt scaling on held-out folds
(Platt, 1999). One head per pair (what is known, whose answer is asked about). Labels may be shares.
Shape letters: R rows, F features, W weights (F + 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from thinkroute.routers.table import FloatArray
from thinkroute.signals.calibration import sigmoid

FOLDS: Final = 5
_STEPS: Final = 60
_CLOSE: Final = 1e-7
_PLATT_RIDGE: Final = 1e-2
_LIMIT: Final = 8.0
"""Standardised features are cut here: nothing unheard of may decide alone."""


@dataclass(frozen=True)
class Head:
    """A fitted head."""

    centre_F: FloatArray
    scale_F: FloatArray
    weight_W: FloatArray
    """Shift first; Platt scaling is worked in."""

    def probability(self, features_RF: FloatArray) -> FloatArray:
        """Probability of a right answer per row."""
        return sigmoid(self._design(features_RF) @ self.weight_W)

    def shares(self, features_F: FloatArray) -> FloatArray:
        """What each feature adds to the logit of one row, for explaining."""
        return self._design(features_F[None])[0, 1:] * self.weight_W[1:]

    def _design(self, features_RF: FloatArray) -> FloatArray:
        return _design(features_RF, self.centre_F, self.scale_F)


def fit_head(
    features_RF: FloatArray, label_R: FloatArray, fold_R: NDArray[np.intp], ridge: float = 1.0
) -> tuple[Head, FloatArray]:
    """A head, and what heads fitted without each row's fold say of that row, on the same Platt scale.

    Args:
        features_RF: NaN is unknown and counts as average.
        label_R: Quality in [0, 1]; NaN rows are not learned from, and are predicted like any other.
        fold_R: Fold of each row, from 0.
        ridge: Weight of the penalty, in rows.
    """
    centre_F, scale_F = _standard(features_RF)
    design_RW = _design(features_RF, centre_F, scale_F)
    seen_R = ~np.isnan(label_R)
    apart_R = np.zeros(len(label_R))
    for fold in np.unique(fold_R):
        out_R = fold_R == fold
        weight_W = _logistic(design_RW[seen_R & ~out_R], label_R[seen_R & ~out_R], ridge)
        apart_R[out_R] = design_RW[out_R] @ weight_W
    slope, shift = _platt(apart_R[seen_R], label_R[seen_R])
    weight_W = _logistic(design_RW[seen_R], label_R[seen_R], ridge) * slope
    weight_W[0] += shift
    return Head(centre_F, scale_F, weight_W), sigmoid(slope * apart_R + shift)


def _platt(logit_R: FloatArray, label_R: FloatArray) -> tuple[float, float]:
    """Slope >= 0 and shift that make held-out logits calibrated; where they order rows wrongly, the rate alone."""
    for slopes in (True, False):
        design_RW = np.stack([np.ones_like(logit_R), logit_R * slopes], axis=1)
        shift, change = _logistic(design_RW, label_R, _PLATT_RIDGE, logit_R * slopes)
        if slopes and change > -1.0:
            return 1.0 + float(change), float(shift)
    return 0.0, float(shift)


def _standard(features_RF: FloatArray) -> tuple[FloatArray, FloatArray]:
    known_RF = ~np.isnan(features_RF)
    count_F = np.maximum(known_RF.sum(axis=0), 1)
    centre_F = np.where(known_RF, features_RF, 0.0).sum(axis=0) / count_F
    square_F = (np.where(known_RF, features_RF - centre_F, 0.0) ** 2).sum(axis=0) / count_F
    return centre_F, np.where(square_F > 1e-12, np.sqrt(square_F), 1.0)


def _design(features_RF: FloatArray, centre_F: FloatArray, scale_F: FloatArray) -> FloatArray:
    standard_RF = np.nan_to_num(np.clip((features_RF - centre_F) / scale_F, -_LIMIT, _LIMIT), nan=0.0)
    return np.concatenate([np.ones((len(standard_RF), 1)), standard_RF], axis=1)


def _logistic(
    design_RW: FloatArray, label_R: FloatArray, ridge: float, offset_R: FloatArray | float = 0.0
) -> FloatArray:
    """Penalised logistic regression by Newton's method, added to an offset; the shift is hardly penalised."""
    width = design_RW.shape[1]
    penalty_W = np.full(width, ridge)
    penalty_W[0] = 1e-3
    weight_W = np.zeros(width)

    def loss(weight_W: FloatArray) -> float:
        value_R = design_RW @ weight_W + offset_R
        fit = float((np.logaddexp(0.0, value_R) - label_R * value_R).sum())
        return fit + 0.5 * float((penalty_W * weight_W**2).sum())

    for _ in range(_STEPS):
        mean_R = sigmoid(design_RW @ weight_W + offset_R)
        slope_W = design_RW.T @ (mean_R - label_R) + penalty_W * weight_W
        curve_WW = (design_RW * (mean_R * (1.0 - mean_R))[:, None]).T @ design_RW + np.diag(penalty_W)
        step_W, length, before = np.linalg.solve(curve_WW, slope_W), 1.0, loss(weight_W)
        while loss(weight_W - length * step_W) > before and length > _CLOSE:
            length *= 0.5
        weight_W = weight_W - length * step_W
        if float(np.abs(length * step_W).max()) < _CLOSE:
            break
    return weight_W
