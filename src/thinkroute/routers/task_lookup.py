"""Averages per task label: what a label alone is worth. Queries without a known label get the overall averages.

For a task with n measured cells of mean y_t the prediction is (n·y_t + κ·ȳ) / (n + κ), ȳ being the arm's overall average
and κ = `prior_weight`; its variance is (n·s² + κ²σ²) / (n + κ)², s² and σ² the variances within the task and overall.
LLMRouterBench's "Max Expert" and RouterDC's data both show that this line is hard to beat where labels exist (73.1
there, above every learned router). It reads `Query.task` only, never the text. Degenerate case: no labels at all
gives `constant`, up to κ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar, Final

import numpy as np

from thinkroute.errors import ConfigError, DataError
from thinkroute.routers.base import ArmStatistics, RouterKind, RouterState, TableRouter
from thinkroute.routers.settings import read_settings
from thinkroute.routers.table import FloatArray, OutcomeTable
from thinkroute.signals.base import Encoder, Scalar
from thinkroute.types import Query


@dataclass(frozen=True)
class TaskLookupSettings:
    """Settings."""

    prior_weight: float = 4.0
    """κ: the overall average counts as this many queries of the task."""


class TaskLookupRouter(TableRouter):
    """Predicts the averages of the query's task."""

    name: ClassVar[str] = "task_lookup"

    def __init__(
        self,
        statistics: ArmStatistics,
        settings: TaskLookupSettings,
        tasks: tuple[str, ...],
        mean_TMA: FloatArray,
        std_TMA: FloatArray,
    ) -> None:
        super().__init__(statistics)
        self.settings = settings
        self._row_of = {task: row for row, task in enumerate(tasks)}
        self._mean_TMA, self._std_TMA = mean_TMA, std_TMA
        with np.errstate(invalid="ignore", divide="ignore"):
            self._error_MA = statistics.spread_MA / np.sqrt(statistics.count_MA)

    def state(self) -> RouterState:
        """What to save."""
        arrays = {"task_T": np.array(list(self._row_of), dtype=np.str_)}
        return RouterState(
            self.name,
            asdict(self.settings),
            self.statistics,
            {**arrays, "mean_TMA": self._mean_TMA, "std_TMA": self._std_TMA},
        )

    def _moments(self, query: Query) -> tuple[FloatArray, FloatArray]:
        row = self._row_of.get(query.task or "")
        if row is None:
            return self.statistics.mean_MA.copy(), self._error_MA.copy()
        return self._mean_TMA[row].copy(), self._std_TMA[row].copy()


def fit(table: OutcomeTable, parameters: Mapping[str, Scalar], encoder: Encoder | None) -> TableRouter:
    """Average the table's cells per task and arm."""
    settings = read_settings(TaskLookupRouter.name, TaskLookupSettings(), parameters)
    if settings.prior_weight < 0:
        raise ConfigError(f"router task_lookup: prior_weight={settings.prior_weight} cannot be negative")
    statistics = ArmStatistics.of(table)
    cells_QMA = statistics.training_cells(table)
    tasks = tuple(sorted({task for task in table.tasks if task}))
    mean_TMA = np.empty((len(tasks), *statistics.mean_MA.shape))
    std_TMA = np.empty_like(mean_TMA)
    for row, task in enumerate(tasks):
        own_QMA = cells_QMA[[label == task for label in table.tasks]]
        mean_TMA[row], std_TMA[row] = _shrunk(own_QMA, statistics, settings.prior_weight)
    return TaskLookupRouter(statistics, settings, tasks, mean_TMA, std_TMA)


def _shrunk(
    own_QMA: FloatArray, statistics: ArmStatistics, prior_weight: float
) -> tuple[FloatArray, FloatArray]:
    """Mean of one task's cells and its standard deviation, shapes (M, A); NaN where an arm was never measured."""
    count_MA = (~np.isnan(own_QMA)).sum(axis=0)
    total_MA = np.nansum(own_QMA, axis=0)
    weight_MA = count_MA + prior_weight
    overall_MA, variance_MA = statistics.mean_MA, statistics.spread_MA**2
    # Without a prior a task that never measured an arm still has the overall average to offer.
    alone_MA = weight_MA == 0
    mean_MA = (total_MA + prior_weight * overall_MA) / np.where(alone_MA, 1.0, weight_MA)
    within_MA = np.nansum((own_QMA - mean_MA) ** 2, axis=0) / np.maximum(count_MA, 1)
    spread_MA = (count_MA * within_MA + prior_weight**2 * variance_MA) / np.where(
        alone_MA, 1.0, weight_MA
    ) ** 2
    mean_MA = np.where(alone_MA, overall_MA, mean_MA)
    return mean_MA, np.sqrt(np.where(alone_MA, variance_MA, spread_MA))


def restore(state: RouterState) -> TableRouter:
    """Rebuild from saved state."""
    settings = read_settings(TaskLookupRouter.name, TaskLookupSettings(), state.parameters)
    tasks, mean, std = (state.arrays.get(name) for name in ("task_T", "mean_TMA", "std_TMA"))
    if tasks is None or mean is None or std is None:
        raise DataError("router task_lookup: the artefact lacks task_T, mean_TMA or std_TMA: fit it again")
    names = tuple(map(str, tasks.tolist()))
    for array in (mean, std):
        if array.shape != (len(names), *state.statistics.mean_MA.shape):
            raise DataError("router task_lookup: its averages do not fit its tasks and arms: fit it again")
    return TaskLookupRouter(
        state.statistics, settings, names, mean.astype(np.float64), std.astype(np.float64)
    )


KIND: Final = RouterKind(fit=fit, restore=restore, reads_text=False)
