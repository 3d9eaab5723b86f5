"""One ridge regression per arm and measure, in closed form, with the posterior's standard deviation.

For an arm: weights (ZᵀZ + λI)⁻¹ Zᵀ(y − ȳ) over the queries whose cell was measured, prediction ȳ + z·w, where z is
the encoder's vector minus its average over those queries. The standard deviation is that of Bayesian linear regression,
σ·√(1/n + zᵀ(ZᵀZ + λI)⁻¹z · N/n), with σ² the mean squared leave-one-out residual. Quality is regressed as it is
(a linear probability model) and clipped to [0, 1]; counts and seconds are clipped to the range seen in training,
since a line extrapolates without mercy.

λ is chosen by leave-one-out error on quality (exact, from the hat matrix). Deviation from the textbook: arms with
missing cells get their own weights, but the leverage is taken from all queries and scaled by N/n, which keeps one
matrix instead of one per arm on the request path. Degenerate case: constant outcomes give weights 0 and σ 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Final

import numpy as np

from thinkroute.errors import ConfigError, DataError
from thinkroute.routers.base import ArmStatistics, RouterKind, RouterState, TableRouter
from thinkroute.routers.settings import read_settings
from thinkroute.routers.table import FloatArray, OutcomeTable
from thinkroute.signals import restore_encoder
from thinkroute.signals.base import Array, Encoder, Scalar
from thinkroute.types import Query

_PENALTIES: Final = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


@dataclass(frozen=True)
class RidgeSettings:
    """Settings; 0 means chosen by leave-one-out error."""

    penalty: float = 0.0
    """λ, on the encoder's vectors as they are."""


@dataclass(frozen=True)
class _Fitted:
    """Numbers of a fitted ridge; the names are those of the artefact."""

    centre_D: FloatArray
    intercept_MA: FloatArray
    weight_DMA: FloatArray
    inverse_DD: FloatArray
    noise_MA: FloatArray
    low_MA: FloatArray
    high_MA: FloatArray


class RidgeRouter(TableRouter):
    """See the module."""

    name: ClassVar[str] = "ridge"

    def __init__(
        self, statistics: ArmStatistics, settings: RidgeSettings, encoder: Encoder, fitted: _Fitted
    ) -> None:
        super().__init__(statistics)
        self.settings = settings
        """Settings with λ chosen."""
        self._encoder = encoder
        self._fitted = fitted
        self._weight_DC = np.ascontiguousarray(fitted.weight_DMA.reshape(encoder.dimension, -1))
        with np.errstate(divide="ignore", invalid="ignore"):
            self._per_cell_MA = 1.0 / statistics.count_MA
            self._coverage_MA = statistics.rows / statistics.count_MA

    def state(self) -> RouterState:
        """What to save."""
        arrays: dict[str, Array] = dict(vars(self._fitted))
        return RouterState(self.name, asdict(self.settings), self.statistics, arrays, self._encoder.state())

    def _moments(self, query: Query) -> tuple[FloatArray, FloatArray]:
        mean_QMA, std_QMA = self._batch_moments((query,))
        return mean_QMA[0], std_QMA[0]

    def _batch_moments(self, queries: Sequence[Query]) -> tuple[FloatArray, FloatArray]:
        vector_QD = self._encoder.encode_batch([query.text for query in queries]) - self._fitted.centre_D
        shape = (len(queries), *self.statistics.mean_MA.shape)
        mean_QMA = self._fitted.intercept_MA + (vector_QD @ self._weight_DC).reshape(shape)
        np.minimum(np.maximum(mean_QMA, self._fitted.low_MA), self._fitted.high_MA, out=mean_QMA)
        leverage_Q = ((vector_QD @ self._fitted.inverse_DD) * vector_QD).sum(axis=1)
        spread_QMA = np.sqrt(self._per_cell_MA + self._coverage_MA * leverage_Q[:, None, None])
        return mean_QMA, self._fitted.noise_MA * spread_QMA


def fit(table: OutcomeTable, parameters: Mapping[str, Scalar], encoder: Encoder | None) -> TableRouter:
    """Solve for every arm and measure; choose λ where it is 0."""
    if encoder is None:
        raise ConfigError("router ridge needs an encoder")
    settings = read_settings(RidgeRouter.name, RidgeSettings(), parameters)
    if settings.penalty < 0:
        raise ConfigError(f"router ridge: penalty={settings.penalty} cannot be negative (0: chosen)")
    statistics = ArmStatistics.of(table)
    cells_QMA = statistics.training_cells(table)
    # Rows without any graded cell teach nothing and must not move the average.
    rows = np.flatnonzero((~np.isnan(cells_QMA[:, 0])).sum(axis=1))
    cells_QMA = cells_QMA[rows]
    vector_QD = encoder.encode_batch([table.texts[int(row)] for row in rows]).astype(np.float64)
    centre_D = vector_QD.mean(axis=0)
    vector_QD -= centre_D
    if not settings.penalty:
        settings = replace(settings, penalty=_best_penalty(vector_QD, cells_QMA[:, 0]))
    return RidgeRouter(
        statistics, settings, encoder, _solve(vector_QD, centre_D, cells_QMA, settings.penalty)
    )


def restore(state: RouterState) -> TableRouter:
    """Rebuild from saved state."""
    settings = read_settings(RidgeRouter.name, RidgeSettings(), state.parameters)
    if state.encoder is None:
        raise DataError("router ridge: the artefact lacks its encoder: fit it again")
    encoder = restore_encoder(state.encoder)
    cells, size = state.statistics.mean_MA.shape, encoder.dimension
    shapes = {
        "centre_D": (size,),
        "intercept_MA": cells,
        "weight_DMA": (size, *cells),
        "inverse_DD": (size, size),
        "noise_MA": cells,
        "low_MA": cells,
        "high_MA": cells,
    }
    arrays: dict[str, FloatArray] = {}
    for name, shape in shapes.items():
        array = state.arrays.get(name)
        if array is None or array.shape != shape:
            raise DataError(f"router ridge: array {name} is missing or not of shape {shape}: fit it again")
        arrays[name] = array.astype(np.float64)
    return RidgeRouter(state.statistics, settings, encoder, _Fitted(**arrays))


KIND: Final = RouterKind(fit=fit, restore=restore, reads_text=True)


def _solve(vector_QD: FloatArray, centre_D: FloatArray, cells_QMA: FloatArray, penalty: float) -> _Fitted:
    size = vector_QD.shape[1]
    _, measures, arms = cells_QMA.shape
    weight_DMA = np.zeros((size, measures, arms))
    intercept_MA, noise_MA, low_MA, high_MA = (np.full((measures, arms), np.nan) for _ in range(4))
    for measure, arm in np.ndindex(measures, arms):
        seen = ~np.isnan(cells_QMA[:, measure, arm])
        if not seen.any():
            continue
        target = cells_QMA[seen, measure, arm]
        low_MA[measure, arm], high_MA[measure, arm] = target.min(), target.max()
        mean_D = vector_QD[seen].mean(axis=0)
        weight, residual = _one(vector_QD[seen] - mean_D, target - target.mean(), penalty)
        weight_DMA[:, measure, arm] = weight
        intercept_MA[measure, arm] = target.mean() - mean_D @ weight
        noise_MA[measure, arm] = np.sqrt((residual**2).mean())
    inverse_DD = np.linalg.inv(vector_QD.T @ vector_QD + penalty * np.eye(size)).astype(np.float64)
    return _Fitted(centre_D, intercept_MA, weight_DMA, inverse_DD, noise_MA, low_MA, high_MA)


def _one(vector_QD: FloatArray, target_Q: FloatArray, penalty: float) -> tuple[FloatArray, FloatArray]:
    """Weights and leave-one-out residuals of one regression without intercept."""
    gram_DD = vector_QD.T @ vector_QD + penalty * np.eye(vector_QD.shape[1])
    solved_DQ = np.linalg.solve(gram_DD, vector_QD.T)
    weight_D = solved_DQ @ target_Q
    leverage_Q = (vector_QD * solved_DQ.T).sum(axis=1) + 1.0 / len(target_Q)
    residual_Q = (target_Q - vector_QD @ weight_D) / np.maximum(1.0 - leverage_Q, 0.1)
    return weight_D, residual_Q


def _best_penalty(vector_QD: FloatArray, quality_QA: FloatArray) -> float:
    """λ of least squared leave-one-out error of quality, summed over arms."""
    errors = dict.fromkeys(_PENALTIES, 0.0)
    for quality_Q in quality_QA.T:
        seen = ~np.isnan(quality_Q)
        centred = vector_QD[seen] - vector_QD[seen].mean(axis=0)
        left_QS, value_S, _ = np.linalg.svd(centred, full_matrices=False)
        target = quality_Q[seen] - quality_Q[seen].mean()
        turned_S = left_QS.T @ target
        for penalty in _PENALTIES:
            keep_S = value_S**2 / (value_S**2 + penalty)
            leverage = (left_QS**2) @ keep_S + 1.0 / len(target)
            residual = (target - left_QS @ (keep_S * turned_S)) / np.maximum(1.0 - leverage, 0.1)
            errors[penalty] += float((residual**2).sum())
    return min(errors, key=lambda penalty: (errors[penalty], penalty))
