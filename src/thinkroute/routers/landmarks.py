"""Kernel regression on landmarks: a Gaussian process that costs the same however many queries it learned from.

Landmarks z_1..z_K are k-means centres of the training vectors; κ(x) holds exp(−|x − z|² / h) for each. For every arm and
measure the deviation from the arm's average is κ(x)·v, the ridge solution with penalty λ in the space the landmarks
span (Nyström; Williams & Seeger 2001). Far from every landmark κ vanishes and the prediction is the average.
The variance of the mean, in units of the noise, is 1/λ − |Uᵀκ(x)|²: prior variance less what the data explain
(the deterministic-inputs view with the Nyström gap added back, as in FITC).

Owned here: fitting, choosing h and λ by exact leave-one-out residuals of quality and of the differences between arms,
evaluating, and what the fit would have said of every kind of query had it never seen that kind.
Shape letters: N training queries, Q queries asked, D coordinates, K landmarks, M measures, A arms, C = M·A cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from thinkroute.routers.clusters import IndexArray, k_means, squared_distances
from thinkroute.routers.neighbours import ERROR_DIGITS, paired_error, typical
from thinkroute.routers.table import FloatArray
from thinkroute.signals.base import Matrix, Vector

_BANDWIDTHS: Final = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Tried as multiples of the median squared distance between queries and landmarks."""
_PENALTIES: Final = (3.0, 10.0, 30.0, 100.0)
_JITTER: Final = 1e-6
_EXPLAINING: Final = 96
"""Directions kept of what the data explain: the rest only makes the variance larger."""
_PATTERNS: Final = 3
"""Patterns of missing cells that h and λ are chosen on, most measured first."""


@dataclass(frozen=True)
class Landmarks:
    """A fitted kernel regression; the names are those of the artefact."""

    landmark_KD: Matrix
    bandwidth: float
    value_KC: Matrix
    """v: what each landmark's kernel adds to each cell's average."""
    explained_KR: Matrix
    """U: directions whose squared lengths reduce the variance."""
    prior_variance: float
    """1/λ, in units of the noise."""

    def kernel(self, vector_QD: Matrix) -> Matrix:
        """κ of every query, shape (Q, K)."""
        distance_QK = squared_distances(vector_QD, self.landmark_KD)
        distance_QK *= -1.0 / self.bandwidth
        return np.exp(distance_QK, out=distance_QK)

    def of(self, vector_QD: Matrix) -> tuple[FloatArray, FloatArray]:
        """Deviations from the average, shape (Q, C), and variance in units of the noise, shape (Q,)."""
        kernel_QK = self.kernel(vector_QD)
        explained_QR = kernel_QK @ self.explained_KR
        variance_Q = self.prior_variance - np.einsum("qr,qr->q", explained_QR, explained_QR)
        return (kernel_QK @ self.value_KC).astype(np.float64), np.maximum(variance_Q, 0.0).astype(np.float64)


class LandmarkSums:
    """A fitted kernel regression, arranged to be asked of one query at a time."""

    def __init__(self, fitted: Landmarks) -> None:
        self._landmark_KD = np.ascontiguousarray(fitted.landmark_KD)
        self._norm_K = (self._landmark_KD**2).sum(axis=1)
        self._scale = np.float32(-1.0 / fitted.bandwidth)
        self._prior_variance = fitted.prior_variance
        self._cells = fitted.value_KC.shape[1]
        # Side by side, so that one product gives both deviations and what the data explain.
        self._value_KS = np.concatenate((fitted.value_KC, fitted.explained_KR), axis=1)

    def of(self, vector: Vector) -> tuple[FloatArray, float]:
        """As `Landmarks.of` for one query: deviations, shape (C,), and variance in units of the noise."""
        kernel_K = self._landmark_KD @ vector
        kernel_K *= -2.0
        kernel_K += self._norm_K
        kernel_K += vector @ vector
        np.maximum(kernel_K, 0.0, out=kernel_K)
        kernel_K *= self._scale
        np.exp(kernel_K, out=kernel_K)
        sums_S = kernel_K @ self._value_KS
        explained_R = sums_S[self._cells :]
        variance = self._prior_variance - float(explained_R @ explained_R)
        return sums_S[: self._cells].astype(np.float64), max(variance, 0.0)


@dataclass(frozen=True)
class Pattern:
    """Columns measured on the same rows: they share one factorisation."""

    rows: IndexArray
    columns: IndexArray


def patterns(cells_NC: FloatArray) -> list[Pattern]:
    """Columns grouped by measured rows, most measured first. Columns without a cell are left out."""
    groups: dict[bytes, list[int]] = {}
    seen_CN = ~np.isnan(cells_NC.T)
    for column, seen_N in enumerate(seen_CN):
        if seen_N.any():
            groups.setdefault(seen_N.tobytes(), []).append(column)
    found = [Pattern(np.flatnonzero(seen_CN[columns[0]]), np.array(columns)) for columns in groups.values()]
    # The rows settle ties, so that the order of columns in the table does not.
    return sorted(
        found, key=lambda pattern: (-len(pattern.rows) * len(pattern.columns), pattern.rows.tolist())
    )


@dataclass(frozen=True)
class Basis:
    """Training queries in coordinates in which the kernel is a dot product."""

    landmark_KD: Matrix
    bandwidth: float
    factor_KK: FloatArray
    """Turns κ into coordinates: coordinates = κ · factor."""
    feature_NK: FloatArray


def basis(vector_ND: Matrix, landmark_KD: Matrix, bandwidth: float) -> Basis:
    """Coordinates by the inverse square root of the landmarks' own kernel matrix."""
    own_KK = np.exp(squared_distances(landmark_KD, landmark_KD).astype(np.float64) / -bandwidth)
    own_KK = (own_KK + own_KK.T) / 2
    value_K, turn_KK = np.linalg.eigh(own_KK + _JITTER * np.eye(len(own_KK)))
    factor_KK = turn_KK / np.sqrt(np.maximum(value_K, _JITTER))
    kernel_NK = np.exp(squared_distances(vector_ND, landmark_KD).astype(np.float64) / -bandwidth)
    return Basis(landmark_KD, bandwidth, factor_KK, kernel_NK @ factor_KK)


@dataclass(frozen=True)
class Fitted:
    """A fit, and how wrong it was about queries it had not seen."""

    landmarks: Landmarks
    left_one_NC: FloatArray
    """Residuals of each query left out alone."""
    left_kind_NA: FloatArray
    """Residuals of quality with each query's whole fold left out."""


def fit(
    vector_ND: Matrix,
    residual_NC: FloatArray,
    quality: slice,
    fold_N: IndexArray,
    *,
    count: int,
    penalty: float,
) -> Fitted:
    """Fit deviations from the averages.

    Args:
        vector_ND: Vectors of the training queries.
        residual_NC: Cells minus their averages, NaN where not measured.
        quality: Columns of quality, on which h and λ are chosen.
        fold_N: Folds that hold whole kinds of query.
        count: Landmarks, at most.
        penalty: λ; 0 means chosen.
    """
    landmark_KD = k_means(vector_ND, count)
    scale = typical(squared_distances(vector_ND[:2000], landmark_KD).ravel().astype(np.float64))
    penalties = (penalty,) if penalty else _PENALTIES
    tried: list[tuple[float, float, Basis]] = []
    for factor in _BANDWIDTHS:
        found = basis(vector_ND, landmark_KD, scale * factor)
        errors = _errors(found.feature_NK, residual_NC[:, quality], penalties)
        told = [round(error, ERROR_DIGITS) for error in errors]
        tried.append((*min(zip(told, penalties, strict=True)), found))
    _, penalty, best = min(tried, key=lambda entry: entry[0])
    left_kind_NA = np.full(residual_NC[:, quality].shape, np.nan)
    for pattern in patterns(residual_NC[:, quality]):
        cells = np.ix_(pattern.rows, pattern.columns)
        left_kind_NA[cells] = _left_out_fold(
            best.feature_NK[pattern.rows], residual_NC[:, quality][cells], penalty, fold_N[pattern.rows]
        )
    return Fitted(*_solved(best, residual_NC, penalty), left_kind_NA)


def _solved(best: Basis, residual_NC: FloatArray, penalty: float) -> tuple[Landmarks, FloatArray]:
    feature_NK = best.feature_NK
    size = feature_NK.shape[1]
    weight_KC = np.zeros((size, residual_NC.shape[1]))
    left_one_NC = np.full(residual_NC.shape, np.nan)
    for pattern in patterns(residual_NC):
        cells = np.ix_(pattern.rows, pattern.columns)
        weight_KC[:, pattern.columns], left_one_NC[cells] = _left_out_one(
            feature_NK[pattern.rows], residual_NC[cells], penalty
        )
    # With prior covariance I/λ, data reduce it to the inverse of the gram matrix plus λ.
    reduction_KK = np.eye(size) / penalty - _inverse(feature_NK.T @ feature_NK, penalty)
    value_K, turn_KK = np.linalg.eigh((reduction_KK + reduction_KK.T) / 2)
    kept = np.argsort(-value_K)[:_EXPLAINING]
    explained_KR = best.factor_KK @ (turn_KK[:, kept] * np.sqrt(np.maximum(value_K[kept], 0.0)))
    fitted = Landmarks(
        best.landmark_KD,
        best.bandwidth,
        (best.factor_KK @ weight_KC).astype(np.float32),
        explained_KR.astype(np.float32),
        1.0 / penalty,
    )
    return fitted, left_one_NC


def _errors(feature_NK: FloatArray, quality_NA: FloatArray, penalties: Sequence[float]) -> list[float]:
    """Error of every penalty on queries left out one by one."""
    totals = [0.0] * len(penalties)
    for pattern in patterns(quality_NA)[:_PATTERNS]:
        part_nK, target_nT = feature_NK[pattern.rows], quality_NA[np.ix_(pattern.rows, pattern.columns)]
        for place, penalty in enumerate(penalties):
            residual_nT = _left_out_one(part_nK, target_nT, penalty)[1]
            totals[place] += len(target_nT) * paired_error(residual_nT)
    return totals


def _left_out_one(
    part_nK: FloatArray, target_nT: FloatArray, penalty: float
) -> tuple[FloatArray, FloatArray]:
    """Weights, and the residuals each row would have had they been fitted without it."""
    inverse_KK = _inverse(part_nK.T @ part_nK, penalty)
    weight_KT = inverse_KK @ (part_nK.T @ target_nT)
    # Share of each row's own cell in its prediction, kept below 1.
    leverage_n = np.minimum(((part_nK @ inverse_KK) * part_nK).sum(axis=1), 0.99)
    return weight_KT, (target_nT - part_nK @ weight_KT) / (1.0 - leverage_n)[:, None]


def _left_out_fold(
    part_nK: FloatArray, target_nT: FloatArray, penalty: float, fold_n: IndexArray
) -> FloatArray:
    gram_KK = part_nK.T @ part_nK + penalty * np.eye(part_nK.shape[1])
    aim_KT = part_nK.T @ target_nT
    left_nT = np.empty_like(target_nT)
    for fold in np.unique(fold_n):
        rows = np.flatnonzero(fold_n == fold)
        own_rK = part_nK[rows]
        weight_KT = np.linalg.solve(gram_KK - own_rK.T @ own_rK, aim_KT - own_rK.T @ target_nT[rows])
        left_nT[rows] = target_nT[rows] - own_rK @ weight_KT
    return left_nT


def _inverse(gram_KK: FloatArray, penalty: float) -> FloatArray:
    return np.asarray(np.linalg.inv(gram_KK + penalty * np.eye(len(gram_KK))), dtype=np.float64)
