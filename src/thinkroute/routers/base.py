"""The router contract: a query and arms in, one prediction per arm out.

Owns `Predictions` (many queries at once), the `Router` protocol that the gateway and the evaluator call, and
`TableRouter`, what every router fitted on an outcome table shares: arm statistics, the declared prior for arms
without outcomes, and the conversion to `thinkroute.types.Prediction`. It does not choose: that is the policy.

Promises of every router (tests/routers/test_laws.py proves them):
1. Predicting is pure and never blocks; the fitted router never changes, so a result stays valid for good.
2. Permuting queries or arms permutes predictions, and a subset of arms gets the same numbers as all of them.
3. Missing cells are ignored: they count neither as wrong nor as free.
4. Quality lies in [0, 1], counts, seconds and dollars are >= 0; unknown is NaN in arrays and None in `Prediction`.
5. Constant outcomes give constant predictions.
6. An arm without outcomes gets the declared prior, marked `basis="prior"`, never an error and never zero.
Shape letters: Q queries, M measures of the router, A arms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from operator import itemgetter
from typing import Any, ClassVar, Final, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from thinkroute.errors import DataError
from thinkroute.routers.table import FloatArray, Measure, OutcomeTable
from thinkroute.signals.base import Array, Encoder, EncoderState, Scalar
from thinkroute.types import Estimate, Prediction, Query

Basis: TypeAlias = Literal["fitted", "prior"]

PRIOR_QUALITY_STD: Final = 0.5
"""Uncertainty of quality for an arm without outcomes: the widest a value in [0, 1] can have."""

_ESTIMATES: Final = tuple(field.name for field in fields(Prediction) if field.name != "basis")
"""What a prediction holds estimates of, in the order of its arguments."""


@dataclass(frozen=True)
class Moments:
    """Means and standard deviations *of those means* for one measure, shape (Q, A), NaN where unknown."""

    mean_QA: FloatArray
    std_QA: FloatArray


@dataclass(frozen=True)
class Predictions:
    """What a router expects of many queries and arms at once."""

    arms: tuple[str, ...]
    known_A: NDArray[np.bool_]
    """False for arms without outcomes, whose numbers are the declared prior."""
    moments: Mapping[Measure, Moments]
    """By measure; a measure the outcomes never held is absent. Always has `quality`."""

    @property
    def quality(self) -> Moments:
        """Probability of a good answer."""
        return self.moments["quality"]

    def at(self, row: int, arm: str) -> Prediction:
        """The prediction of one query and arm in the form the policy takes."""
        column = self.arms.index(arm)
        estimates = {
            measure: Estimate(float(m.mean_QA[row, column]), float(m.std_QA[row, column]))
            for measure, m in self.moments.items()
            if not np.isnan(m.mean_QA[row, column])
        }
        return Prediction(**estimates, basis="fitted" if self.known_A[column] else "prior")


class Router(Protocol):
    """Anything that predicts. The gateway needs no more than this."""

    @property
    def version(self) -> str:
        """Name and version, as it stands in a `Decision`."""
        ...

    @property
    def arms(self) -> tuple[str, ...]:
        """Arms with outcomes. Others may be asked about, see promise 6."""
        ...

    def predict(self, query: Query, arms: Sequence[str]) -> Mapping[str, Prediction]:
        """Predict one query: one entry per arm asked for, in that order."""
        ...

    def predict_batch(self, queries: Sequence[Query], arms: Sequence[str]) -> Predictions:
        """Predict many queries; row i equals `predict(queries[i], arms)`."""
        ...


@dataclass(frozen=True)
class ArmStatistics:
    """What the outcomes say of each arm before any query is looked at."""

    arms: tuple[str, ...]
    measures: tuple[Measure, ...]
    """Quantities with at least one measured cell, quality first."""
    mean_MA: FloatArray
    """Mean over measured cells, NaN where an arm has none."""
    spread_MA: FloatArray
    """Standard deviation between queries (not of the mean), NaN where an arm has none."""
    count_MA: FloatArray
    """Measured cells."""
    prompt_line_3A: FloatArray
    """Prompt tokens as a line over the bytes of the prompt: intercept, slope, standard deviation of a value."""
    data_hash: str
    rows: int

    @classmethod
    def of(cls, table: OutcomeTable) -> ArmStatistics:
        """Statistics of a table. Arms without any graded cell are left out: nothing is known of them.

        Raises:
            DataError: the table has no graded cell at all.
        """
        graded = [arm for a, arm in enumerate(table.arms) if not np.isnan(table.quality_QA[:, a]).all()]
        if not graded:
            raise DataError("cannot fit a router: the outcome table has no graded cell")
        kept = table.select_arms(graded)
        cells_QMA = np.stack([kept.measured[m] for m in kept.measures], axis=1)
        count_MA = (~np.isnan(cells_QMA)).sum(axis=0).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_MA = np.nansum(cells_QMA, axis=0) / count_MA
            spread_MA = np.sqrt(np.nansum((cells_QMA - mean_MA) ** 2, axis=0) / count_MA)
        return cls(
            arms=kept.arms,
            measures=kept.measures,
            mean_MA=mean_MA,
            spread_MA=spread_MA,
            count_MA=count_MA,
            prompt_line_3A=_prompt_lines(kept),
            data_hash=table.digest(),
            rows=len(table),
        )

    def training_cells(self, table: OutcomeTable) -> FloatArray:
        """The measured cells of the arms kept here, shape (Q, M, A)."""
        kept = table.select_arms(self.arms)
        return np.stack([kept.measured[m] for m in self.measures], axis=1)

    def prior(self) -> tuple[FloatArray, FloatArray]:
        """Declared prior of an arm without outcomes, shapes (M,): the average arm, as unsure as arms differ.

        Dollars stay unknown: they hang on the new arm's price, which outcomes of other arms cannot tell.
        """
        with np.errstate(invalid="ignore"):
            mean_M = np.nanmean(self.mean_MA, axis=1)
            std_M = np.sqrt(
                np.nanvar(self.mean_MA, axis=1) + np.nanmean(self.spread_MA**2, axis=1) + mean_M**2
            )
        std_M[0] = PRIOR_QUALITY_STD
        if "cost_usd" in self.measures:
            mean_M[self.measures.index("cost_usd")] = std_M[self.measures.index("cost_usd")] = np.nan
        return mean_M, std_M


@dataclass(frozen=True)
class RouterState:
    """Everything needed to rebuild a fitted router."""

    name: str
    parameters: Mapping[str, Scalar]
    """Settings a human would read, the chosen ones included."""
    statistics: ArmStatistics
    arrays: Mapping[str, Array] = field(default_factory=dict[str, Array])
    encoder: EncoderState | None = None


@dataclass(frozen=True)
class RouterKind:
    """How to make routers of one kind."""

    fit: Callable[[OutcomeTable, Mapping[str, Scalar], Encoder | None], TableRouter]
    """Table, settings and a fitted encoder (ignored by routers that read no text)."""
    restore: Callable[[RouterState], TableRouter]
    """A fitted router from what `state()` gave."""
    reads_text: bool
    """Whether it needs an encoder."""


class TableRouter(ABC):
    """A router fitted on an outcome table. Subclasses give moments for the arms they were fitted on."""

    name: ClassVar[str]

    def __init__(self, statistics: ArmStatistics) -> None:
        self.statistics = statistics
        self._prior = statistics.prior()
        # Predictions are made by position, the quickest way; the places past the last measure hold what is absent, and
        # the basis.
        places = {measure: row for row, measure in enumerate(statistics.measures)}
        self._by_field = itemgetter(*(places.get(name, len(places)) for name in _ESTIMATES), len(places) + 1)
        self._column_of = {arm: column for column, arm in enumerate(statistics.arms)}
        # An arm that joined by its description alone is predicted like the others, and still has no outcomes.
        self._basis_A: list[Basis] = ["fitted" if count else "prior" for count in statistics.count_MA[0]]
        mean_M, std_M = self._prior
        self._prior_prediction = self._as_prediction(mean_M.tolist(), std_M.tolist(), "prior")
        self._prompt_row = (
            statistics.measures.index("prompt_tokens") if "prompt_tokens" in statistics.measures else None
        )

    @property
    def arms(self) -> tuple[str, ...]:
        """Arms with outcomes."""
        return self.statistics.arms

    @property
    def version(self) -> str:
        """`name:` and the first digits of the training data's hash."""
        return f"{self.name}:{self.statistics.data_hash[:8]}"

    @abstractmethod
    def state(self) -> RouterState:
        """What to save."""

    @abstractmethod
    def _moments(self, query: Query) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the mean, shapes (M, A), for the arms of the statistics."""

    def _batch_moments(self, queries: Sequence[Query]) -> tuple[FloatArray, FloatArray]:
        """As `_moments` for many queries, shapes (Q, M, A)."""
        shape = (len(queries), *self.statistics.mean_MA.shape)
        mean_QMA, std_QMA = np.empty(shape), np.empty(shape)
        for row, query in enumerate(queries):
            mean_QMA[row], std_QMA[row] = self._moments(query)
        return mean_QMA, std_QMA

    def predict(self, query: Query, arms: Sequence[str]) -> Mapping[str, Prediction]:
        """Predict one query; see `Router`."""
        mean_MA, std_MA = self._moments(query)
        if self._prompt_row is not None:
            mean_MA[self._prompt_row], std_MA[self._prompt_row] = self._prompt_moments(query)
        _into_range(mean_MA)
        mean_AM, std_AM = mean_MA.T.tolist(), std_MA.T.tolist()
        predictions: dict[str, Prediction] = {}
        for arm in arms:
            column = self._column_of.get(arm)
            if column is None:
                predictions[arm] = self._prior_prediction
            else:
                predictions[arm] = self._as_prediction(mean_AM[column], std_AM[column], self._basis_A[column])
        return predictions

    def predict_batch(self, queries: Sequence[Query], arms: Sequence[str]) -> Predictions:
        """Predict many queries; see `Router`."""
        mean_QMA, std_QMA = self._batch_moments(queries)
        if self._prompt_row is not None:
            for row, query in enumerate(queries):
                line = self._prompt_moments(query)
                mean_QMA[row, self._prompt_row], std_QMA[row, self._prompt_row] = line
        _into_range(mean_QMA)
        known_A = np.array([arm in self._column_of for arm in arms], dtype=np.bool_)
        columns = [self._column_of.get(arm, 0) for arm in arms]
        mean_QMA, std_QMA = mean_QMA[:, :, columns], std_QMA[:, :, columns]
        mean_QMA[:, :, ~known_A] = self._prior[0][:, None]
        std_QMA[:, :, ~known_A] = self._prior[1][:, None]
        moments: dict[Measure, Moments] = {
            measure: Moments(mean_QMA[:, row], std_QMA[:, row])
            for row, measure in enumerate(self.statistics.measures)
        }
        known_A &= np.array([self._basis_A[column] == "fitted" for column in columns], dtype=np.bool_)
        return Predictions(tuple(arms), known_A, moments)

    def _prompt_moments(self, query: Query) -> tuple[FloatArray, FloatArray]:
        intercept_A, slope_A, std_A = self.statistics.prompt_line_3A
        return intercept_A + slope_A * (_bytes_of(query.text) + _bytes_of(query.context)), std_A

    def _as_prediction(self, means: Sequence[float], stds: Sequence[float], basis: Basis) -> Prediction:
        estimates: list[Estimate | Basis | None] = [*map(Estimate, means, stds), None, basis]
        total = sum(means)
        if total != total:  # noqa: PLR0124  # the quickest test for NaN
            for row, mean in enumerate(means):
                if mean != mean:  # noqa: PLR0124
                    estimates[row] = None
        by_field: tuple[Any, ...] = self._by_field(estimates)
        return Prediction(*by_field)


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def _into_range(mean_MA: FloatArray) -> None:
    """Clip means in place: all >= 0, quality (the first measure) <= 1."""
    np.maximum(mean_MA, 0.0, out=mean_MA)
    quality = mean_MA[..., 0, :]
    np.minimum(quality, 1.0, out=quality)


def _prompt_lines(table: OutcomeTable) -> FloatArray:
    """Least squares of prompt tokens on prompt bytes, per arm.

    A line beats any neighbour average here: tokens per byte is a property of the tokenizer, the intercept is the
    chat template. With fewer than three different lengths the slope is not identified and the mean is used.
    """
    line_3A = np.full((3, len(table.arms)), np.nan)
    if "prompt_tokens" not in table.measured:
        return line_3A
    size_Q = np.array([_bytes_of(text) for text in table.texts], dtype=np.float64)
    for column, tokens_Q in enumerate(table.measured["prompt_tokens"].T):
        seen = ~np.isnan(tokens_Q)
        if not seen.any():
            continue
        size, tokens = size_Q[seen], tokens_Q[seen]
        variance = size.var()
        identified = variance > 0 and len(np.unique(size)) >= 3
        slope = max(float(((size - size.mean()) * tokens).mean() / variance), 0.0) if identified else 0.0
        intercept = tokens.mean() - slope * size.mean()
        line_3A[:, column] = intercept, slope, (tokens - intercept - slope * size).std()
    return line_3A
