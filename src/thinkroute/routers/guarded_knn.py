"""Neighbours and a smooth trend, heard only where they are sure: the default router.

Two estimates of how far an arm's cell lies from its average are averaged: the kernel-weighted mean of the nearest
queries (`neighbours`) and kernel regression on landmarks (`landmarks`). Both return to the arm's average far from all
training queries. Then the guard: with r the best single arm, Δ_a the average difference of arm a to r and δ_a(x) the
predicted one, what is new about this query is e = δ_a(x) − Δ_a, and

    quality_a = quality_r + Δ_a + g(|e| / (z·u·s_a)) · (1 − u + u·t) · e,   g rising from .02 at 1 to 1 at 2,

with u the probability that the query is of a kind never seen in training (`territory`), t the share of a predicted
difference that turned out true for training queries whose whole kind had been left out, and s_a the standard deviation
of the paired difference: noise of y_a − y_r over the same queries, times how little the data say at x. So among its like
a query gets what the neighbours say; in unknown territory every arm differs from r by its average difference, and the
policy does what it would do with averages alone, at every price: the best single arm at the price in force. What is
left of a difference there is too little to choose by, but keeps queries in order (which of them gain most). z is the
knob between the two promises: 0 believes every prediction, larger leaves the best single arm more rarely.

Settings left open are chosen by squared error on queries left out one by one. Kinds are task labels where the table
has them, else a few large clusters; asking needs no label.

Guarding kNN by paired evidence is the one variant that one team kept of some 1,500 configurations (routing notes of
experientiallabs/experiential, pull request 256). Deviations: the guard shrinks predictions instead of overruling
choices, so that it works at every price and for any policy; a firm threshold (Gao & Bruce 1997) instead of a
hard one, so that predictions do not jump; evidence is asked for where a query is strange, as asking it everywhere costs
most of the gain. Degenerate case: constant outcomes give that constant with deviation 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from thinkroute.errors import ConfigError, DataError
from thinkroute.routers import landmarks, territory
from thinkroute.routers.base import ArmStatistics, RouterKind, RouterState, TableRouter
from thinkroute.routers.best_single import best_single_arm
from thinkroute.routers.clusters import unlike_folds
from thinkroute.routers.honesty import honest_scales
from thinkroute.routers.landmarks import Landmarks, LandmarkSums
from thinkroute.routers.neighbours import KernelSums, KnnSettings, choose, left_out
from thinkroute.routers.settings import read_settings
from thinkroute.routers.table import FloatArray, OutcomeTable
from thinkroute.routers.territory import Territory
from thinkroute.signals import restore_encoder
from thinkroute.signals.base import Array, Encoder, Matrix, Scalar
from thinkroute.types import Query

_ENOUGH_PAIRS: Final = 10
_SMALLEST: Final = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class GuardedKnnSettings:
    """Settings; 0 means chosen by the error on queries left out, except for z, where it means no guard."""

    z: float = 1.0
    """In unknown territory, differences count from this many standard deviations on, and fully from twice."""
    unseen_share: float = 0.3
    """Share of traffic expected to be of kinds unlike all training queries."""
    neighbours: int = 0
    """k."""
    bandwidth: float = 0.0
    """h of the neighbours, in squared distance of the encoder's vectors."""
    prior_weight: float = 0.0
    """κ: the arm's average counts as this many perfect neighbours."""
    landmarks: int = 256
    """Landmarks of the smooth trend, at most."""
    penalty: float = 0.0
    """λ of the smooth trend."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 0:
                raise ConfigError(f"router guarded_knn: {field.name} cannot be negative")
        if self.unseen_share > 1 or self.landmarks < 1:
            raise ConfigError("router guarded_knn: unseen_share is at most 1, landmarks at least 1")

    @property
    def kernel(self) -> KnnSettings:
        """What the neighbours need."""
        return KnnSettings(self.neighbours, self.bandwidth, self.prior_weight)


_LEAST_HEARD: Final = 0.02
"""Share of a predicted difference that always counts: without it all strangers are alike, and cannot be ranked."""


@dataclass(frozen=True)
class _Spread:
    """Noise of single cells, as standard deviations; the names are those of the artefact."""

    noise_MA: FloatArray
    pair_noise_A: FloatArray
    """Of the difference in quality to the best single arm on the same query."""
    scale_M: FloatArray
    """Factors that make stated deviations honest."""
    low_MA: FloatArray
    high_MA: FloatArray


class GuardedKnnRouter(TableRouter):
    """See the module. Keeps every training query: memory and time grow with their number."""

    name: ClassVar[str] = "guarded_knn"

    def __init__(
        self,
        statistics: ArmStatistics,
        settings: GuardedKnnSettings,
        encoder: Encoder,
        keys_ND: Matrix,
        cells_NMA: NDArray[np.float32],
        trend: Landmarks,
        known: Territory,
        spread: _Spread,
    ) -> None:
        super().__init__(statistics)
        self.settings = settings
        """Settings with everything chosen."""
        self._encoder, self._cells_NMA, self._trend = encoder, cells_NMA, trend
        self._known, self._spread = known, spread
        self._trend_sums = LandmarkSums(trend)
        self._neighbours = KernelSums(keys_ND, cells_NMA, statistics.mean_MA, settings.kernel)
        self._reference = statistics.arms.index(best_single_arm(statistics))
        self._variance_of_average_MA = 1.0 / np.maximum(statistics.count_MA, 1.0)
        self._noise_MA = spread.noise_MA * spread.scale_M[:, None]

    def state(self) -> RouterState:
        """What to save."""
        arrays: dict[str, Array] = {"keys_ND": self._neighbours.keys_ND, "cells_NMA": self._cells_NMA}
        arrays |= {
            "landmark_KD": self._trend.landmark_KD,
            "value_KC": self._trend.value_KC,
            "explained_KR": self._trend.explained_KR,
            "kernel_2": np.array([self._trend.bandwidth, self._trend.prior_variance]),
        }
        known = self._known
        arrays |= {"reach_N": known.reach_N, "weight_3": known.weight_3, "excess_A": known.excess_A}
        arrays |= {"trust_1": np.array([known.trust])} | vars(self._spread)
        return RouterState(self.name, asdict(self.settings), self.statistics, arrays, self._encoder.state())

    def _moments(self, query: Query) -> tuple[FloatArray, FloatArray]:
        vector = self._encoder.encode(query.text)
        near = self._neighbours.nearest(vector)
        shift_C = self._neighbours.shift(near)
        trend_C, variance = self._trend_sums.of(vector)
        shift_C += trend_C
        shift_C *= 0.5
        shift_MA = shift_C.reshape(self.statistics.mean_MA.shape)
        unseen = self._known.unseen(near)
        shift_MA[0] = self._guarded(shift_MA[0], unseen, math.sqrt(variance))
        mean_MA = self.statistics.mean_MA + shift_MA
        np.minimum(np.maximum(mean_MA, self._spread.low_MA), self._spread.high_MA, out=mean_MA)
        std_MA = self._noise_MA * np.sqrt(self._variance_of_average_MA + variance)
        std_MA[0] = np.sqrt(std_MA[0] ** 2 + unseen * self._known.excess_A)
        return mean_MA, std_MA

    def _guarded(self, shift_A: FloatArray, unseen: float, doubt: float) -> FloatArray:
        """The guard of the module: what differs from the best single arm's own shift, as far as it is believed."""
        reference = shift_A[self._reference]
        extra_A = shift_A - reference
        threshold_A = self.settings.z * unseen * doubt * self._spread.pair_noise_A
        believed_A = np.abs(extra_A) - threshold_A
        np.maximum(believed_A, _LEAST_HEARD * threshold_A, out=believed_A)
        # Where the threshold is 0 everything counts; adding the smallest number keeps 0 / 0 out.
        threshold_A += _SMALLEST
        believed_A /= threshold_A
        np.minimum(believed_A, 1.0, out=believed_A)
        believed_A *= 1.0 - unseen * (1.0 - self._known.trust)
        extra_A *= believed_A
        extra_A += reference
        return extra_A


def fit(table: OutcomeTable, parameters: Mapping[str, Scalar], encoder: Encoder | None) -> TableRouter:
    """Keep the table's queries as neighbours, fit the trend, and choose what was left open."""
    if encoder is None:
        raise ConfigError("router guarded_knn needs an encoder")
    settings = read_settings(GuardedKnnRouter.name, GuardedKnnSettings(), parameters)
    statistics = ArmStatistics.of(table)
    cells_QMA = statistics.training_cells(table)
    # Rows without any graded cell teach nothing and would only take the place of neighbours that do.
    rows = np.flatnonzero((~np.isnan(cells_QMA[:, 0])).any(axis=1))
    # From here on the rounded cells count, so that a saved and loaded router gives identical numbers.
    cells_NMA = cells_QMA[rows].astype(np.float32)
    keys_ND = encoder.encode_batch([table.texts[int(row)] for row in rows])
    fold_N = unlike_folds(keys_ND, [table.tasks[int(row)] for row in rows])
    kernel = choose(settings.kernel, keys_ND, cells_NMA[:, 0].astype(np.float64), statistics.mean_MA[0])
    residual_NC = (cells_NMA - statistics.mean_MA).reshape(len(rows), -1)
    quality = slice(0, len(statistics.arms))
    trend = landmarks.fit(
        keys_ND, residual_NC, quality, fold_N, count=settings.landmarks, penalty=settings.penalty
    )
    settings = replace(settings, **asdict(kernel), penalty=1.0 / trend.landmarks.prior_variance)
    seen = territory.views(keys_ND, settings.kernel, fold_N)
    rows_R = seen.near.rows_R
    # Leaving one out makes an average of the two estimates' residuals the residual of their average.
    left_NMA = trend.left_one_NC.reshape(cells_NMA.shape)
    friend_RMA = 0.5 * (left_out(settings.kernel, statistics, seen.near, cells_NMA)[0] + left_NMA[rows_R])
    stranger_RA = left_out(settings.kernel, statistics, seen.far, cells_NMA)[0][:, 0]
    stranger_RA = 0.5 * (stranger_RA + trend.left_kind_NA[rows_R])
    truth_RA = residual_NC[rows_R, quality]
    reference = statistics.arms.index(best_single_arm(statistics))
    worth = territory.worth(truth_RA, truth_RA - friend_RMA[:, 0], truth_RA - stranger_RA, reference)
    known = territory.fit(keys_ND, seen, settings.bandwidth, settings.unseen_share, worth)
    noise_MA, pair_noise_A, variance_N = _noise(statistics, left_NMA, trend.landmarks, keys_ND)
    stated_RMA = noise_MA**2 * (1.0 / np.maximum(statistics.count_MA, 1.0) + variance_N[rows_R, None, None])
    spread = _Spread(
        noise_MA,
        pair_noise_A,
        honest_scales(keys_ND, cells_NMA, friend_RMA, stated_RMA),
        _extreme(np.fmin.reduce(cells_NMA, axis=0)),
        _extreme(np.fmax.reduce(cells_NMA, axis=0)),
    )
    return GuardedKnnRouter(statistics, settings, encoder, keys_ND, cells_NMA, trend.landmarks, known, spread)


def _noise(
    statistics: ArmStatistics, left_out_NMA: FloatArray, trend: Landmarks, keys_ND: Matrix
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Noise of cells and of paired differences, and the trend's variance where its queries lie.

    Residuals left out one by one have variance noise · (1 + variance of the mean).
    """
    variance_N = trend.of(keys_ND)[1]
    share = 1.0 / (1.0 + float(variance_N.mean()))
    count_MA = np.maximum((~np.isnan(left_out_NMA)).sum(axis=0), 1)
    noise_MA: FloatArray = np.sqrt(share * np.nansum(left_out_NMA**2, axis=0) / count_MA)
    reference = statistics.arms.index(best_single_arm(statistics))
    paired_NA = left_out_NMA[:, 0] - left_out_NMA[:, 0, [reference]]
    both_A = (~np.isnan(paired_NA)).sum(axis=0)
    paired_A = share * np.nansum(paired_NA**2, axis=0) / np.maximum(both_A, 1)
    quality_A: FloatArray = noise_MA[0]
    # Arms hardly ever measured on the same query count as independent.
    apart_A = quality_A**2 + float(quality_A[reference]) ** 2
    pair_noise_A = np.sqrt(np.where(both_A > _ENOUGH_PAIRS, paired_A, apart_A))
    pair_noise_A[reference] = 0.0
    return noise_MA, pair_noise_A, variance_N


def _extreme(cell_MA: NDArray[np.float32]) -> FloatArray:
    return np.nan_to_num(cell_MA).astype(np.float64)


def restore(state: RouterState) -> TableRouter:
    """Rebuild from saved state."""
    settings = read_settings(GuardedKnnRouter.name, GuardedKnnSettings(), state.parameters)
    if state.encoder is None:
        raise DataError("router guarded_knn: the artefact lacks its encoder: fit it again")
    encoder, cells = restore_encoder(state.encoder), state.statistics.mean_MA.shape
    arrays = state.arrays
    rows, kept, size = len(arrays.get("keys_ND", ())), len(arrays.get("landmark_KD", ())), encoder.dimension
    directions = arrays["explained_KR"].shape[-1] if "explained_KR" in arrays else 0
    shapes: dict[str, tuple[int, ...]] = {
        "keys_ND": (rows, size),
        "cells_NMA": (rows, *cells),
        "landmark_KD": (kept, size),
        "value_KC": (kept, cells[0] * cells[1]),
        "explained_KR": (kept, directions),
        "kernel_2": (2,),
        "reach_N": (rows,),
        "weight_3": (3,),
        "excess_A": cells[1:],
        "trust_1": (1,),
        "noise_MA": cells,
        "pair_noise_A": cells[1:],
        "scale_M": cells[:1],
        "low_MA": cells,
        "high_MA": cells,
    }
    for name, shape in shapes.items():
        if name not in arrays or arrays[name].shape != shape:
            raise DataError(
                f"router guarded_knn: array {name} is missing or not of shape {shape}: fit it again"
            )
    single = {name: arrays[name].astype(np.float32) for name in ("keys_ND", "cells_NMA", "landmark_KD")}
    bandwidth, prior_variance = (float(number) for number in arrays["kernel_2"].astype(np.float64))
    trend = Landmarks(
        single["landmark_KD"],
        bandwidth,
        arrays["value_KC"].astype(np.float32),
        arrays["explained_KR"].astype(np.float32),
        prior_variance,
    )
    spread = _Spread(**{f.name: arrays[f.name].astype(np.float64) for f in fields(_Spread)})
    reach_N, weight_3, excess_A, trust_1 = (
        arrays[name].astype(np.float64) for name in ("reach_N", "weight_3", "excess_A", "trust_1")
    )
    known = Territory(reach_N, weight_3, float(trust_1[0]), excess_A)
    return GuardedKnnRouter(
        state.statistics, settings, encoder, single["keys_ND"], single["cells_NMA"], trend, known, spread
    )


KIND: Final = RouterKind(fit=fit, restore=restore, reads_text=True)
