"""From a model's raw outputs to moments: lines on the scale of a link, with their posterior spread.

A column is one measure of one arm. With z = (score − centre)/scale the mean is σ(a + b·z) for probabilities (Platt's
map, 1999; labels may be graded) and a + b·z for counts, seconds and dollars, cut to the range seen. A column may read
several scores, each with its own slope. Fitted on scores of queries the model was *not* trained on. Prior:
a ~ N(the column's average, 1), every b ~ N(0, 1), in logits or in standard deviations of the column, so few rows leave
the average in place. The spread is that of the mean: the delta rule on the Laplace posterior. Degenerate case: a
column whose cells are all equal gives that value with spread 0.
Shape letters: R held-out rows, Q queries, C columns, F scores a column reads, W = F + 1 weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thinkroute.errors import DataError
from thinkroute.routers.table import FloatArray
from thinkroute.signals.base import Array

_STEPS = 30
_CLOSE = 1e-10
_EQUAL = 1e-12
_WIDEST = 0.5
"""Largest standard deviation that a value in [0, 1] can have."""


@dataclass(frozen=True)
class Calibration:
    """Fitted maps, one per column."""

    centre_CF: FloatArray
    scale_CF: FloatArray
    weight_CW: FloatArray
    """a, then the slopes."""
    covariance_CWW: FloatArray
    """Posterior covariance of the weights."""
    low_C: FloatArray
    high_C: FloatArray
    logistic_C: NDArray[np.bool_]

    def __call__(self, score_QCF: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the mean, shapes (Q, C)."""
        z_QCF = (score_QCF - self.centre_CF) / self.scale_CF
        z_QCW = np.concatenate([np.ones((*z_QCF.shape[:2], 1)), z_QCF], axis=2)
        line_QC = (z_QCW * self.weight_CW).sum(axis=2)
        probability_QC = sigmoid(line_QC)
        mean_QC = np.where(self.logistic_C, probability_QC, line_QC)
        slope_QC = np.where(self.logistic_C, probability_QC * (1.0 - probability_QC), 1.0)
        variance_QC = (z_QCW * (z_QCW[:, :, None] @ self.covariance_CWW)[:, :, 0]).sum(axis=2)
        # Rounding may leave the smallest trace of a negative variance.
        std_QC: FloatArray = slope_QC * np.sqrt(np.maximum(variance_QC, 0.0))
        std_QC = np.minimum(std_QC, np.where(self.logistic_C, _WIDEST, np.inf))
        return np.minimum(np.maximum(mean_QC, self.low_C), self.high_C), std_QC

    def joined(self, other: Calibration, order: Sequence[int]) -> Calibration:
        """The columns of both, in the order of the numbers given; those of `other` count on from ours."""
        mine, theirs = vars(self), vars(other)
        return Calibration(*(np.concatenate([mine[name], theirs[name]])[list(order)] for name in mine))

    def arrays(self, prefix: str = "calibration") -> dict[str, Array]:
        """What to save; the names are those of the artefact."""
        return {f"{prefix}_{name}": array for name, array in vars(self).items()}

    @classmethod
    def of(
        cls, arrays: Mapping[str, Array], columns: int, scores: int = 1, prefix: str = "calibration"
    ) -> Calibration:
        """What was saved, for so many columns that read so many scores each.

        Raises:
            DataError: an array is missing or misshapen.
        """
        sizes = {"C": columns, "F": scores, "W": scores + 1}
        found: dict[str, FloatArray] = {}
        for name in cls.__dataclass_fields__:
            array = arrays.get(f"{prefix}_{name}")
            shape = tuple(sizes[letter] for letter in name.rpartition("_")[2])
            if array is None or array.shape != shape:
                raise DataError(f"array {prefix}_{name} is missing or not of shape {shape}: fit again")
            found[name] = array.astype(np.float64)
        logistic_C = found.pop("logistic_C").astype(np.bool_)
        return cls(**found, logistic_C=logistic_C)


@dataclass(frozen=True)
class Columns:
    """What is known of every column before any score is looked at."""

    mean_C: FloatArray
    spread_C: FloatArray
    """Standard deviation between queries."""
    low_C: FloatArray
    high_C: FloatArray
    logistic_C: NDArray[np.bool_]
    """Whether the column holds probabilities."""

    @classmethod
    def of(cls, cells_RMA: FloatArray) -> Columns:
        """Columns of all training cells, measure by measure, quality first; NaN where a column has none."""
        cells_RC = flat(cells_RMA)
        count_C = (~np.isnan(cells_RC)).sum(axis=0)
        mean_C = np.where(count_C > 0, np.nansum(cells_RC, axis=0) / np.maximum(count_C, 1), np.nan)
        spread_C = np.sqrt(np.nansum((cells_RC - mean_C) ** 2, axis=0) / np.maximum(count_C, 1))
        filled_RC = np.where(np.isnan(cells_RC), mean_C, cells_RC)
        logistic_C = np.arange(len(mean_C)) < cells_RMA.shape[2]
        return cls(
            mean_C,
            np.where(count_C > 0, spread_C, np.nan),
            filled_RC.min(axis=0),
            filled_RC.max(axis=0),
            logistic_C,
        )

    def as_one(self) -> Columns:
        """Every column as if it were all of them together."""
        mean = float(np.nanmean(self.mean_C))
        spread = float(np.sqrt(np.nanmean(self.spread_C**2 + (self.mean_C - mean) ** 2)))
        together = mean, spread, float(np.nanmin(self.low_C)), float(np.nanmax(self.high_C))
        mean_C, spread_C, low_C, high_C = (np.full(self.mean_C.shape, value) for value in together)
        return Columns(mean_C, spread_C, low_C, high_C, self.logistic_C)


def calibrate(
    score_RCF: FloatArray, label_RC: FloatArray, columns: Columns, *, one_map: bool = False
) -> Calibration:
    """Fit maps on held-out scores and labels.

    Args:
        score_RCF: Raw scores; NaN is a row without one.
        label_RC: Measured cells; NaN is a missing one.
        columns: All training cells in short.
        one_map: One map for all columns, which keeps the order of scores within a query.
    """
    count = len(columns.mean_C)
    if one_map:
        columns = columns.as_one()
        score_RCF = np.repeat(score_RCF.reshape(-1, 1, score_RCF.shape[2]), count, axis=1)
        label_RC = np.repeat(label_RC.reshape(-1, 1), count, axis=1)
    fitted = [_fit(score_RCF[:, c], label_RC[:, c], columns, c) for c in range(count)]
    centre_CF, scale_CF, weight_CW, covariance_CWW = (np.stack(part) for part in zip(*fitted, strict=True))
    # A probability is not bound to the labels seen, except where they are all the same.
    free_C = columns.logistic_C & (columns.spread_C > _EQUAL)
    low_C, high_C = np.where(free_C, 0.0, columns.low_C), np.where(free_C, 1.0, columns.high_C)
    return Calibration(centre_CF, scale_CF, weight_CW, covariance_CWW, low_C, high_C, columns.logistic_C)


def average(parts: list[tuple[FloatArray, FloatArray]]) -> tuple[FloatArray, FloatArray]:
    """Moments of an ensemble: mean of the means; their mean variance plus the variance between them."""
    means, stds = np.stack([mean for mean, _ in parts]), np.stack([std for _, std in parts])
    return means.mean(axis=0), np.sqrt((stds**2).mean(axis=0) + means.var(axis=0))


def flat(cells_QMA: FloatArray) -> FloatArray:
    """Columns of every measure and arm, measure by measure, shape (Q, M · A)."""
    return cells_QMA.reshape(len(cells_QMA), cells_QMA.shape[1] * cells_QMA.shape[2])


def sigmoid(value: FloatArray) -> FloatArray:
    """Logistic function without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * value))


def logit(probability: FloatArray) -> FloatArray:
    """Its inverse, cut at a millionth from the ends."""
    kept = np.clip(probability, 1e-6, 1.0 - 1e-6)
    return np.log(kept / (1.0 - kept))


def _fit(score_RF: FloatArray, label_R: FloatArray, columns: Columns, column: int) -> tuple[FloatArray, ...]:
    """Centre, scale, weights and covariance of one map."""
    scores = score_RF.shape[1]
    mean, spread = float(columns.mean_C[column]), float(columns.spread_C[column])
    weight_W, covariance_WW = np.zeros(scores + 1), np.zeros((scores + 1, scores + 1))
    weight_W[0] = mean
    if np.isnan(mean) or spread <= _EQUAL:
        covariance_WW[:] = np.nan if np.isnan(mean) else 0.0
        return _zeros(scores), 1.0 + _zeros(scores), weight_W, covariance_WW
    seen_R = ~np.isnan(score_RF).any(axis=1) & ~np.isnan(label_R)
    score_RF, label_R, logistic = score_RF[seen_R], label_R[seen_R], bool(columns.logistic_C[column])
    centre_F, scale_F = _zeros(scores), 1.0 + _zeros(scores)
    if label_R.size:
        centre_F, spread_F = score_RF.mean(axis=0), score_RF.std(axis=0)
        # Where held-out scores do not differ, nothing says what a difference means: take it as the column's own.
        scale_F = np.where(spread_F > _EQUAL, spread_F, 1.0 if logistic else spread)
    design_RW = np.concatenate([np.ones((len(label_R), 1)), (score_RF - centre_F) / scale_F], axis=1)
    if logistic:
        weight_W[0] = float(logit(np.array(mean)))
        weight_W, covariance_WW = _logistic(design_RW, label_R, weight_W)
    else:
        step_W, covariance_WW = _line(design_RW, (label_R - mean) / spread)
        weight_W, covariance_WW = weight_W + spread * step_W, spread**2 * covariance_WW
    return centre_F, scale_F, weight_W, covariance_WW


def _zeros(size: int) -> FloatArray:
    return np.zeros(size)


def _line(design_RW: FloatArray, label_R: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Bayesian linear regression of standardised labels."""
    inverse_WW = np.linalg.inv(design_RW.T @ design_RW + np.eye(design_RW.shape[1])).astype(np.float64)
    weight_W = inverse_WW @ (design_RW.T @ label_R)
    noise = float(((label_R - design_RW @ weight_W) ** 2).mean()) if label_R.size else 1.0
    return weight_W, noise * inverse_WW


def _logistic(
    design_RW: FloatArray, label_R: FloatArray, start_W: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Penalised logistic regression by Newton's method; steps are halved until the loss falls."""
    weight_W, identity_WW = start_W.copy(), np.eye(len(start_W))

    def loss(weight_W: FloatArray) -> float:
        value_R = design_RW @ weight_W
        fit = float((np.logaddexp(0.0, value_R) - label_R * value_R).sum())
        return fit + 0.5 * float(((weight_W - start_W) ** 2).sum())

    mean_R, hessian_WW = label_R, identity_WW
    for _ in range(_STEPS):
        mean_R = sigmoid(design_RW @ weight_W)
        hessian_WW = (design_RW * (mean_R * (1.0 - mean_R))[:, None]).T @ design_RW + identity_WW
        step_W = np.linalg.solve(hessian_WW, design_RW.T @ (mean_R - label_R) + weight_W - start_W)
        before, length = loss(weight_W), 1.0
        while loss(weight_W - length * step_W) > before and length > _CLOSE:
            length *= 0.5
        weight_W = weight_W - length * step_W
        if float(np.abs(length * step_W).max()) < _CLOSE:
            break
    noise_R = np.maximum(mean_R * (1.0 - mean_R), 1e-6)
    dispersion = float(((label_R - mean_R) ** 2 / noise_R).mean()) if label_R.size else 1.0
    return weight_W, min(dispersion, 1.0) * np.linalg.inv(hessian_WW).astype(np.float64)
