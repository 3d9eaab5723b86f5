"""One ridge regression per arm and measure, in closed form, with the posterior's standard deviation.

For an arm: weights (ZᵀZ + λI)⁻¹ Zᵀ(y − ȳ) over the queries whose cell was measured, prediction ȳ + z·w, where z is
the encoder's vector minus its average over those queries. The standard deviation is that of Bayesian linear regression,
σ·√(1/n + zᵀ(ZᵀZ + λI)⁻¹z · N/n), with σ² the mean squared leave-one-out residual, times a factor that makes it honest
where the world is not linear (`honesty`). Quality is regressed as it is
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
from numpy.typing import NDArray

from thinkroute.errors import ConfigError, DataError
from thinkroute.routers.base import ArmStatistics, RouterKind, RouterState, TableRouter
from thinkroute.routers.honesty import honest_scales
from thinkroute.routers.neighbours import tuning_rows
from thinkroute.routers.settings import read_settings
from thinkroute.routers.table import FloatArray, OutcomeTable
from thinkroute.signals import restore_encoder
from thinkroute.signals.base import Array, Encoder, Scalar
from thinkroute.types import Query

_CARRIED: Final = "ridge_"
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
        return self.of_vectors(self._encoder.encode_batch([query.text for query in queries]))

    def saved(self) -> dict[str, Array]:
        """Arrays under names that do not clash with those of a router that carries this one; see `companion`."""
        arrays: dict[str, Array] = {_CARRIED + name: array for name, array in vars(self._fitted).items()}
        return arrays | {_CARRIED + "penalty": np.array(self.settings.penalty)}

    def of_vectors(self, vector_QD: NDArray[np.floating]) -> tuple[FloatArray, FloatArray]:
        """Means and their standard deviations for encoded queries, shapes (Q, M, A)."""
        vector_QD = vector_QD - self._fitted.centre_D
        shape = (len(vector_QD), *self.statistics.mean_MA.shape)
        mean_QMA = self._fitted.intercept_MA + (vector_QD @ self._weight_DC).reshape(shape)
        np.minimum(np.maximum(mean_QMA, self._fitted.low_MA), self._fitted.high_MA, out=mean_QMA)
        leverage_Q = ((vector_QD @ self._fitted.inverse_DD) * vector_QD).sum(axis=1)
        spread_QMA = np.sqrt(self._per_cell_MA + self._coverage_MA * leverage_Q[:, None, None])
        return mean_QMA, self._fitted.noise_MA * spread_QMA


def fit(table: OutcomeTable, parameters: Mapping[str, Scalar], encoder: Encoder | None) -> RidgeRouter:
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


def restore(state: RouterState) -> RidgeRouter:
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


def companion(state: RouterState) -> RidgeRouter:
    """The ridge that another router carries for the measures it does not model itself, from that router's state.

    Raises:
        DataError: an array is missing or misshapen.
    """
    arrays = {
        name.removeprefix(_CARRIED): array
        for name, array in state.arrays.items()
        if name.startswith(_CARRIED)
    }
    penalty = arrays.pop("penalty", None)
    if penalty is None:
        raise DataError(f"router {state.name}: array {_CARRIED}penalty is missing: fit it again")
    return restore(
        RouterState(RidgeRouter.name, {"penalty": float(penalty)}, state.statistics, arrays, state.encoder)  # pyright: ignore[reportArgumentType]
    )


KIND: Final = RouterKind(fit=fit, restore=restore, reads_text=True)


def _solve(vector_QD: FloatArray, centre_D: FloatArray, cells_QMA: FloatArray, penalty: float) -> _Fitted:
    rows, measures, arms = cells_QMA.shape
    size = vector_QD.shape[1]
    cells_QC = cells_QMA.reshape(rows, -1)
    weight_DC = np.zeros((size, measures * arms))
    intercept_C, noise_C, low_C, high_C = (np.full(measures * arms, np.nan) for _ in range(4))
    left_out_QC = np.full(cells_QC.shape, np.nan)
    for seen, columns in _alike(cells_QC):
        target_QT = cells_QC[np.ix_(seen, columns)]
        mean_D, mean_T = vector_QD[seen].mean(axis=0), target_QT.mean(axis=0)
        weight_DT, residual_QT = _regress(vector_QD[seen] - mean_D, target_QT - mean_T, penalty)
        weight_DC[:, columns] = weight_DT
        intercept_C[columns] = mean_T - mean_D @ weight_DT
        left_out_QC[np.ix_(seen, columns)] = residual_QT
        noise_C[columns] = np.sqrt((residual_QT**2).mean(axis=0))
        low_C[columns], high_C[columns] = target_QT.min(axis=0), target_QT.max(axis=0)
    inverse_DD = np.linalg.inv(vector_QD.T @ vector_QD + penalty * np.eye(size)).astype(np.float64)
    shape = (measures, arms)
    noise_C *= np.repeat(_scales(vector_QD, inverse_DD, cells_QMA, left_out_QC, noise_C), arms)
    return _Fitted(
        centre_D,
        intercept_C.reshape(shape),
        weight_DC.reshape(size, *shape),
        inverse_DD,
        noise_C.reshape(shape),
        low_C.reshape(shape),
        high_C.reshape(shape),
    )


def _scales(
    vector_QD: FloatArray,
    inverse_DD: FloatArray,
    cells_QMA: FloatArray,
    left_out_QC: FloatArray,
    noise_C: FloatArray,
) -> FloatArray:
    """Factors that make stated deviations honest: the formula believes that the world is linear."""
    rows_R = tuning_rows(len(vector_QD))
    count_C = np.maximum((~np.isnan(left_out_QC)).sum(axis=0), 1)
    leverage_R = ((vector_QD[rows_R] @ inverse_DD) * vector_QD[rows_R]).sum(axis=1)
    stated_RC = noise_C**2 / count_C * (1.0 + len(vector_QD) * leverage_R[:, None])
    shape = len(rows_R), *cells_QMA.shape[1:]
    return honest_scales(
        vector_QD.astype(np.float32),
        cells_QMA,
        left_out_QC[rows_R].reshape(shape),
        np.nan_to_num(stated_RC).reshape(shape),
    )


def _alike(cells_QC: FloatArray) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Columns with the same measured rows, as (rows, columns): they share one factorisation. Empty ones are left out."""
    groups: dict[bytes, list[int]] = {}
    seen_CQ = ~np.isnan(cells_QC.T)
    for column, seen_Q in enumerate(seen_CQ):
        if seen_Q.any():
            groups.setdefault(seen_Q.tobytes(), []).append(column)
    return [(np.flatnonzero(seen_CQ[columns[0]]), np.array(columns)) for columns in groups.values()]


def _regress(vector_QD: FloatArray, target_QT: FloatArray, penalty: float) -> tuple[FloatArray, FloatArray]:
    """Weights and leave-one-out residuals of several centred targets on centred vectors."""
    gram_DD = vector_QD.T @ vector_QD + penalty * np.eye(vector_QD.shape[1])
    inverse_DD = np.linalg.inv(gram_DD).astype(np.float64)
    weight_DT = inverse_DD @ (vector_QD.T @ target_QT)
    leverage_Q = ((vector_QD @ inverse_DD) * vector_QD).sum(axis=1) + 1.0 / len(target_QT)
    residual_QT = (target_QT - vector_QD @ weight_DT) / np.maximum(1.0 - leverage_Q, 0.1)[:, None]
    return weight_DT, residual_QT


def _best_penalty(vector_QD: FloatArray, quality_QA: FloatArray) -> float:
    """λ of least squared leave-one-out error of quality, summed over arms."""
    errors = dict.fromkeys(_PENALTIES, 0.0)
    for seen, columns in _alike(quality_QA):
        centred = vector_QD[seen] - vector_QD[seen].mean(axis=0)
        value_D, turn_DD = np.linalg.eigh(centred.T @ centred)
        turned_QD = centred @ turn_DD
        target_QT = quality_QA[np.ix_(seen, columns)]
        target_QT = target_QT - target_QT.mean(axis=0)
        aimed_DT = turned_QD.T @ target_QT
        for penalty in _PENALTIES:
            shrunk_D = 1.0 / (np.maximum(value_D, 0.0) + penalty)
            leverage_Q = (turned_QD**2) @ shrunk_D + 1.0 / len(seen)
            residual_QT = target_QT - turned_QD @ (shrunk_D[:, None] * aimed_DT)
            residual_QT /= np.maximum(1.0 - leverage_Q, 0.1)[:, None]
            errors[penalty] += float((residual_QT**2).sum())
    return min(errors, key=lambda penalty: (errors[penalty], penalty))
