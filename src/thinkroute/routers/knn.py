"""k nearest training queries, kernel-weighted, shrunk to the arm's average.

For a query x with neighbours i = 1..k at squared distance d_i: w_i = exp(−d_i / h), and for each arm and measure
mean = (Σ w_i y_i + κ ȳ) / (Σ w_i + κ), over the neighbours whose cell was measured; ȳ is the arm's average and κ
counts as that many perfect neighbours. The variance of that mean is (Σ w_i² s² + κ² σ²) / (Σ w_i + κ)², with s² the
local variance (shrunk the same way) and σ² the arm's variance between queries. Far from every training query the
weights vanish, so the mean goes to the average and the standard deviation to σ: unknown territory says so.

RouterBench (arXiv 2403.12031) and "Rethinking predictive routing" (arXiv 2505.12601) show well-tuned kNN at the level
of learned routers. Deviations: kernel weights and shrinkage instead of a plain mean, missing cells, all measures.
k, h and κ are chosen by leave-one-out error on quality where left at 0; queries with an identical vector count as
the same query there. Degenerate case: constant outcomes give that constant with standard deviation 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from thinkroute.errors import ConfigError, DataError
from thinkroute.routers.base import ArmStatistics, RouterKind, RouterState, TableRouter
from thinkroute.routers.honesty import honest_scales
from thinkroute.routers.neighbours import (
    KernelSums,
    KnnSettings,
    choose,
    left_out,
    mean_and_variance,
    neighbours_of,
    tuning_rows,
)
from thinkroute.routers.settings import read_settings
from thinkroute.routers.table import FloatArray, OutcomeTable
from thinkroute.signals import restore_encoder
from thinkroute.signals.base import Encoder, Matrix, Scalar
from thinkroute.types import Query


class KnnRouter(TableRouter):
    """See the module. Keeps every training query: memory and time grow with their number."""

    name: ClassVar[str] = "knn"

    def __init__(
        self,
        statistics: ArmStatistics,
        settings: KnnSettings,
        encoder: Encoder,
        keys_ND: Matrix,
        cells_NMA: NDArray[np.float32],
        scale_M: FloatArray,
    ) -> None:
        super().__init__(statistics)
        self.settings = settings
        """Settings with everything chosen."""
        self._encoder, self._cells_NMA = encoder, cells_NMA
        self._sums = KernelSums(keys_ND, cells_NMA, statistics.mean_MA, settings)
        self._variance_C = np.nan_to_num(statistics.spread_MA).reshape(-1) ** 2
        self._scale_M = scale_M

    def state(self) -> RouterState:
        """What to save."""
        arrays = {"keys_ND": self._sums.keys_ND, "cells_NMA": self._cells_NMA, "scale_M": self._scale_M}
        return RouterState(self.name, asdict(self.settings), self.statistics, arrays, self._encoder.state())

    def _moments(self, query: Query) -> tuple[FloatArray, FloatArray]:
        """The formulas of the module, on deviations from the arm's average."""
        sums = self._sums.of(self._sums.nearest(self._encoder.encode(query.text)))
        shift_C, variance_C = mean_and_variance(sums, self.settings.prior_weight, self._variance_C)
        shape = self.statistics.mean_MA.shape
        std_MA = np.sqrt(variance_C, out=variance_C).reshape(shape)
        std_MA *= self._scale_M[:, None]
        return self.statistics.mean_MA + shift_C.reshape(shape), std_MA


def fit(table: OutcomeTable, parameters: Mapping[str, Scalar], encoder: Encoder | None) -> TableRouter:
    """Keep the table's queries as neighbours and choose what was left open."""
    if encoder is None:
        raise ConfigError("router knn needs an encoder")
    settings = read_settings(KnnRouter.name, KnnSettings(), parameters)
    if settings.neighbours < 0 or settings.bandwidth < 0 or settings.prior_weight < 0:
        raise ConfigError("router knn: neighbours, bandwidth and prior_weight cannot be negative (0: chosen)")
    statistics = ArmStatistics.of(table)
    cells_QMA = statistics.training_cells(table)
    # Rows without any graded cell teach nothing and would only take the place of neighbours that do.
    rows = np.flatnonzero((~np.isnan(cells_QMA[:, 0])).any(axis=1))
    keys_ND = encoder.encode_batch([table.texts[int(row)] for row in rows])
    # From here on the rounded cells count, so that a saved and loaded router gives identical numbers.
    cells_NMA = cells_QMA[rows].astype(np.float32)
    settings = choose(settings, keys_ND, cells_NMA[:, 0].astype(np.float64), statistics.mean_MA[0])
    near = neighbours_of(keys_ND, tuning_rows(len(rows)), settings.neighbours)
    scale_M = honest_scales(keys_ND, cells_NMA, *left_out(settings, statistics, near, cells_NMA))
    return KnnRouter(statistics, settings, encoder, keys_ND, cells_NMA, scale_M)


def restore(state: RouterState) -> TableRouter:
    """Rebuild from saved state."""
    settings = read_settings(KnnRouter.name, KnnSettings(), state.parameters)
    keys, cells, scales = (state.arrays.get(name) for name in ("keys_ND", "cells_NMA", "scale_M"))
    if state.encoder is None or keys is None or cells is None or scales is None:
        raise DataError(
            "router knn: the artefact lacks its encoder, keys_ND, cells_NMA or scale_M: fit it again"
        )
    encoder = restore_encoder(state.encoder)
    if keys.shape != (len(cells), encoder.dimension) or cells.shape[1:] != state.statistics.mean_MA.shape:
        raise DataError(
            f"router knn: keys {keys.shape} and cells {cells.shape} do not fit the card: fit it again"
        )
    return KnnRouter(
        state.statistics,
        settings,
        encoder,
        keys.astype(np.float32),
        cells.astype(np.float32),
        scales.astype(np.float64),
    )


KIND: Final = RouterKind(fit=fit, restore=restore, reads_text=True)
