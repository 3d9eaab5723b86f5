"""Kernel regression on landmarks: a Gaussian process that costs the same however many queries it learned from.

Landmarks z_1..z_K are k-means centres of the training vectors; κ(x) holds exp(−|x − z|² / h) for each. For every arm and
measure the deviation from the arm's average is κ(x)·v, the ridge solution with penalty λ in the space the landmarks
span (Nyström; Williams & Seeger 2001). Far from every landmark κ vanishes and the prediction is the average.
The variance of the mean, in units of the noise, is 1/λ − |Uᵀκ(x)|²: prior variance less what the data explain
(the deterministic-inputs view with the Nyström gap added back, as in FITC).

Owned here: fitting, choosing h and λ by exact leave-out residuals, and evaluating. h and λ of quality minimise the
squared error of quality and of the differences between arms, averaged over queries left out one by one and over
whole kinds of query left out at once (`regimes`), so that strength is measured where a query is new, too.
Shape letters: N training queries, Q queries asked, D coordinates, K landmarks, M measures, A arms, C = M·A cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from thinkroute.routers.clusters import IndexArray, k_means, squared_distances
from thinkroute.routers.neighbours import paired_error, typical
from thinkroute.routers.table import FloatArray
from thinkroute.signals.base import Matrix

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
    return sorted(found, key=lambda pattern: -len(pattern.rows) * len(pattern.columns))


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


def fit(
    vector_ND: Matrix,
    residual_NC: FloatArray,
    quality: slice,
    *,
    count: int,
    penalty: float,
    regimes: Sequence[tuple[float, IndexArray | None]],
) -> tuple[Landmarks, FloatArray]:
    """Fit deviations from the averages; also returns their leave-one-out residuals, shape (N, C).

    Args:
        vector_ND: Vectors of the training queries.
        residual_NC: Cells minus their averages, NaN where not measured.
        quality: Columns of quality, on which h and λ are chosen.
        count: Landmarks, at most.
        penalty: λ; 0 means chosen.
        regimes: Weight and folds of each way to leave queries out, see `neighbours.choose`.
    """
    landmark_KD = k_means(vector_ND, count)
    scale = typical(squared_distances(vector_ND[:2000], landmark_KD).ravel().astype(np.float64))
    penalties = (penalty,) if penalty else _PENALTIES
    tried: list[tuple[float, float, Basis]] = []
    for factor in _BANDWIDTHS:
        found = basis(vector_ND, landmark_KD, scale * factor)
        errors = _errors(found.feature_NK, residual_NC[:, quality], penalties, regimes)
        tried.append((*min(zip(errors, penalties, strict=True)), found))
    _, penalty, best = min(tried, key=lambda entry: entry[0])
    return _solved(best, residual_NC, penalty)


def _solved(best: Basis, residual_NC: FloatArray, penalty: float) -> tuple[Landmarks, FloatArray]:
    feature_NK = best.feature_NK
    size = feature_NK.shape[1]
    weight_KC = np.zeros((size, residual_NC.shape[1]))
    left_out_NC = np.full(residual_NC.shape, np.nan)
    for pattern in patterns(residual_NC):
        part_nK = feature_NK[pattern.rows]
        inverse_KK = _inverse(part_nK.T @ part_nK, penalty)
        target_nT = residual_NC[np.ix_(pattern.rows, pattern.columns)]
        weight_KT = inverse_KK @ (part_nK.T @ target_nT)
        weight_KC[:, pattern.columns] = weight_KT
        spare_n = 1.0 - _leverage(part_nK, inverse_KK)
        left_out_NC[np.ix_(pattern.rows, pattern.columns)] = (target_nT - part_nK @ weight_KT) / spare_n[
            :, None
        ]
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
    return fitted, left_out_NC


def _errors(
    feature_NK: FloatArray,
    quality_NA: FloatArray,
    penalties: Sequence[float],
    regimes: Sequence[tuple[float, IndexArray | None]],
) -> list[float]:
    """Error of every penalty, weighted over the regimes."""
    totals = [0.0] * len(penalties)
    for pattern in patterns(quality_NA)[:_PATTERNS]:
        part_nK, target_nT = feature_NK[pattern.rows], quality_NA[np.ix_(pattern.rows, pattern.columns)]
        gram_KK, aim_KT = part_nK.T @ part_nK, part_nK.T @ target_nT
        for share, fold_N in regimes:
            for place, penalty in enumerate(penalties):
                if fold_N is None:
                    left_nT = _left_out_one(part_nK, target_nT, gram_KK, aim_KT, penalty)
                else:
                    left_nT = _left_out_fold(
                        part_nK, target_nT, gram_KK, aim_KT, penalty, fold_N[pattern.rows]
                    )
                totals[place] += share * len(target_nT) * paired_error(left_nT)
    return totals


def _left_out_one(
    part_nK: FloatArray, target_nT: FloatArray, gram_KK: FloatArray, aim_KT: FloatArray, penalty: float
) -> FloatArray:
    inverse_KK = _inverse(gram_KK, penalty)
    spare_n = 1.0 - _leverage(part_nK, inverse_KK)
    return (target_nT - part_nK @ (inverse_KK @ aim_KT)) / spare_n[:, None]


def _left_out_fold(
    part_nK: FloatArray,
    target_nT: FloatArray,
    gram_KK: FloatArray,
    aim_KT: FloatArray,
    penalty: float,
    fold_n: IndexArray,
) -> FloatArray:
    left_nT = np.empty_like(target_nT)
    for fold in np.unique(fold_n):
        rows = np.flatnonzero(fold_n == fold)
        own_rK = part_nK[rows]
        others_KK = gram_KK - own_rK.T @ own_rK + penalty * np.eye(len(gram_KK))
        weight_KT = np.linalg.solve(others_KK, aim_KT - own_rK.T @ target_nT[rows])
        left_nT[rows] = target_nT[rows] - own_rK @ weight_KT
    return left_nT


def _inverse(gram_KK: FloatArray, penalty: float) -> FloatArray:
    return np.asarray(np.linalg.inv(gram_KK + penalty * np.eye(len(gram_KK))), dtype=np.float64)


def _leverage(part_nK: FloatArray, inverse_KK: FloatArray) -> NDArray[np.float64]:
    """Share of each row's own cell in its prediction, kept below 1."""
    return np.minimum(((part_nK @ inverse_KK) * part_nK).sum(axis=1), 0.99)
