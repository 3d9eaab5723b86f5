"""CARROT's plug-in rule: estimate quality and cost apart, each as well as it can be, then choose.

CARROT (arXiv 2502.03261) estimates E[quality | query] and E[cost | query] per arm with separate regressions, kNN or RoBERTa,
and picks max (1 − μ)·quality − μ·cost; it shows that this plug-in rule is minimax-optimal. The policy's utility,
value·quality − cost, is the same rule with value = (1 − μ)/μ (tests/routers/test_classical.py holds them
against each other), so only the estimates live here: two kernel averages over nearest queries (`neighbours`), one with k, h and κ chosen
on quality, one chosen on what answers consume (dollars, else generated tokens, else latency), which is
smoother in the prompt's length and wants another neighbourhood.

Deviation: kernel weights and shrinkage in place of CARROT's plain mean of neighbours. Deviations stated are made honest
by queries left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
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
from thinkroute.routers.table import FloatArray, Measure, OutcomeTable
from thinkroute.signals import restore_encoder
from thinkroute.signals.base import Encoder, Matrix, Scalar
from thinkroute.types import Query

_CONSUMED: Final[tuple[Measure, ...]] = (
    "cost_usd",
    "answer_tokens",
    "reasoning_tokens",
    "latency_s",
    "ttft_s",
)
"""What the second estimate is tuned on: the first of these the table has."""


@dataclass(frozen=True)
class CarrotSettings:
    """Settings; 0 means chosen by the error on queries left out."""

    neighbours: int = 0
    """k of quality."""
    bandwidth: float = 0.0
    """h of quality."""
    prior_weight: float = 0.0
    """κ of quality."""
    cost_neighbours: int = 0
    """k of everything else."""
    cost_bandwidth: float = 0.0
    """h of everything else."""
    cost_prior_weight: float = 0.0
    """κ of everything else."""

    @property
    def quality(self) -> KnnSettings:
        """Of the first estimate."""
        return KnnSettings(self.neighbours, self.bandwidth, self.prior_weight)

    @property
    def cost(self) -> KnnSettings:
        """Of the second estimate."""
        return KnnSettings(self.cost_neighbours, self.cost_bandwidth, self.cost_prior_weight)


class CarrotRouter(TableRouter):
    """See the module."""

    name: ClassVar[str] = "carrot"

    def __init__(
        self,
        statistics: ArmStatistics,
        settings: CarrotSettings,
        encoder: Encoder,
        keys_ND: Matrix,
        cells_NMA: NDArray[np.float32],
        scale_M: FloatArray,
    ) -> None:
        super().__init__(statistics)
        self.settings = settings
        """Settings with everything chosen."""
        self._encoder, self._cells_NMA, self._scale_M = encoder, cells_NMA, scale_M
        mean_MA, variance_MA = statistics.mean_MA, np.nan_to_num(statistics.spread_MA) ** 2
        parts = [(slice(0, 1), settings.quality)]
        if len(mean_MA) > 1:
            parts.append((slice(1, None), settings.cost))
        self._parts = [
            (
                own,
                KernelSums(keys_ND, cells_NMA[:, own], mean_MA[own], chosen),
                chosen.prior_weight,
                variance_MA[own],
            )
            for own, chosen in parts
        ]

    def state(self) -> RouterState:
        """What to save."""
        arrays = {
            "keys_ND": self._parts[0][1].keys_ND,
            "cells_NMA": self._cells_NMA,
            "scale_M": self._scale_M,
        }
        return RouterState(self.name, asdict(self.settings), self.statistics, arrays, self._encoder.state())

    def _moments(self, query: Query) -> tuple[FloatArray, FloatArray]:
        vector = self._encoder.encode(query.text)
        mean_MA, std_MA = self.statistics.mean_MA.copy(), np.empty_like(self.statistics.mean_MA)
        for own, sums, prior_weight, variance_MA in self._parts:
            shift_C, variance_C = mean_and_variance(
                sums.of(sums.nearest(vector)), prior_weight, variance_MA.reshape(-1)
            )
            mean_MA[own] += shift_C.reshape(variance_MA.shape)
            std_MA[own] = np.sqrt(variance_C).reshape(variance_MA.shape)
        return mean_MA, std_MA * self._scale_M[:, None]


def fit(table: OutcomeTable, parameters: Mapping[str, Scalar], encoder: Encoder | None) -> TableRouter:
    """Keep the table's queries as neighbours and choose both neighbourhoods."""
    if encoder is None:
        raise ConfigError("router carrot needs an encoder")
    settings = read_settings(CarrotRouter.name, CarrotSettings(), parameters)
    for name, value in asdict(settings).items():
        if value < 0:
            raise ConfigError(f"router carrot: {name}={value} cannot be negative (0: chosen)")
    statistics = ArmStatistics.of(table)
    cells_QMA = statistics.training_cells(table)
    rows = np.flatnonzero((~np.isnan(cells_QMA[:, 0])).any(axis=1))
    keys_ND = encoder.encode_batch([table.texts[int(row)] for row in rows])
    cells_NMA = cells_QMA[rows].astype(np.float32)
    quality = choose(settings.quality, keys_ND, cells_NMA[:, 0].astype(np.float64), statistics.mean_MA[0])
    cost = _choose_cost(settings.cost, keys_ND, cells_NMA, statistics)
    settings = CarrotSettings(*asdict(quality).values(), *asdict(cost).values())
    depth = max(quality.neighbours, cost.neighbours)
    near = neighbours_of(keys_ND, tuning_rows(len(rows)), depth)
    left = [left_out(chosen, statistics, near, cells_NMA) for chosen in (quality, cost)]
    # The first measure is quality, the others follow the second neighbourhood.
    residual_RMA, variance_RMA = (
        np.concatenate([left[0][part][:, :1], left[1][part][:, 1:]], axis=1) for part in (0, 1)
    )
    scale_M = honest_scales(keys_ND, cells_NMA, residual_RMA, variance_RMA)
    return CarrotRouter(statistics, settings, encoder, keys_ND, cells_NMA, scale_M)


def _choose_cost(
    settings: KnnSettings, keys_ND: Matrix, cells_NMA: NDArray[np.float32], statistics: ArmStatistics
) -> KnnSettings:
    """Settings of least error in what is consumed, arms weighed by their own spread."""
    known = [statistics.measures.index(name) for name in _CONSUMED if name in statistics.measures]
    row = known[0] if known else 0
    mean_A, spread_A = statistics.mean_MA[row], statistics.spread_MA[row]
    usable_A = np.flatnonzero(np.nan_to_num(spread_A) > 0)
    cells_NA = ((cells_NMA[:, row] - mean_A) / np.where(spread_A > 0, spread_A, 1.0))[:, usable_A]
    told = np.flatnonzero((~np.isnan(cells_NA)).any(axis=1))
    if not told.size:
        row_A = statistics.mean_MA[0]
        return choose(settings, keys_ND, cells_NMA[:, 0].astype(np.float64), row_A)
    return choose(settings, keys_ND[told], cells_NA[told].astype(np.float64), np.zeros(usable_A.size))


def restore(state: RouterState) -> TableRouter:
    """Rebuild from saved state."""
    settings = read_settings(CarrotRouter.name, CarrotSettings(), state.parameters)
    keys, cells, scales = (state.arrays.get(name) for name in ("keys_ND", "cells_NMA", "scale_M"))
    if state.encoder is None or keys is None or cells is None or scales is None:
        raise DataError(
            "router carrot: the artefact lacks its encoder, keys_ND, cells_NMA or scale_M: fit it again"
        )
    encoder = restore_encoder(state.encoder)
    if keys.shape != (len(cells), encoder.dimension) or cells.shape[1:] != state.statistics.mean_MA.shape:
        raise DataError(
            f"router carrot: keys {keys.shape} and cells {cells.shape} do not fit the card: fit it again"
        )
    return CarrotRouter(
        state.statistics,
        settings,
        encoder,
        keys.astype(np.float32),
        cells.astype(np.float32),
        scales.astype(np.float64),
    )


KIND: Final = RouterKind(fit=fit, restore=restore, reads_text=True)
