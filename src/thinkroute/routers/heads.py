"""What the routers share that model quality alone: a head on the encoder's vector, and ridge for everything else.

A method is two functions: training gives arrays, arrays and vectors give quality. Around it stand, the same for all:
standardised vectors; choosing among the method's candidate settings, and one slope that shrinks the head towards the
arms' averages, both by squared error on queries left out in folds; tokens, dollars and latency by
the ridge regression of `ridge`, whose posterior deviation (made honest by the head's own residuals) is also the head's.
So a head is as sure as a line of the same vectors would be, never more.

Degenerate cases: an arm of constant outcomes is predicted as that constant; a table of fewer than ten queries is not
cut into folds and its head is used as trained.
Shape letters: N training queries, Q queries asked, D coordinates, M measures, A arms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import numpy as np

from thinkroute.errors import ConfigError, DataError
from thinkroute.routers import ridge
from thinkroute.routers.base import RouterKind, RouterState, TableRouter
from thinkroute.routers.clusters import IndexArray
from thinkroute.routers.honesty import honest_scales
from thinkroute.routers.neighbours import paired_error, tuning_rows
from thinkroute.routers.settings import read_settings
from thinkroute.routers.table import FloatArray, OutcomeTable
from thinkroute.signals import restore_encoder
from thinkroute.signals.base import Array, Encoder, Scalar
from thinkroute.types import Query

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SettingsT = TypeVar("SettingsT", bound="DataclassInstance")
Arrays = Mapping[str, FloatArray]

_FOLDS: Final = 3
_FEWEST: Final = 10
"""Queries from which on folds mean something."""


@dataclass(frozen=True)
class Lesson:
    """What a head is trained on."""

    vector_ND: FloatArray
    """Standardised vectors."""
    quality_NA: FloatArray
    """Graded cells, NaN where not measured; every arm has one."""
    arms: tuple[str, ...]
    """Names, to draw starting points from: their order must not matter."""


@dataclass(frozen=True)
class HeadMethod(Generic[SettingsT]):
    """One way of predicting quality from vectors."""

    name: str
    defaults: SettingsT
    candidates: Callable[[SettingsT], Sequence[SettingsT]]
    """Settings to choose from where some were left open; one entry where none was. Refuses impossible ones."""
    train: Callable[[Lesson, SettingsT], dict[str, FloatArray]]
    """Numbers of a trained head."""
    quality: Callable[[Arrays, FloatArray], FloatArray]
    """Quality of every arm, shape (Q, A), for standardised vectors (Q, D)."""


class HeadRouter(TableRouter, Generic[SettingsT]):
    """A router made of a `HeadMethod`; see the module."""

    def __init__(
        self,
        method: HeadMethod[SettingsT],
        settings: SettingsT,
        encoder: Encoder,
        companion: ridge.RidgeRouter,
        head: dict[str, FloatArray],
        frame: Frame,
    ) -> None:
        super().__init__(companion.statistics)
        self.name = method.name  # pyright: ignore[reportAttributeAccessIssue]  # one class serves all methods
        self.settings = settings
        """Settings with everything chosen."""
        self._method, self._encoder, self._companion, self._head, self._frame = (
            method,
            encoder,
            companion,
            head,
            frame,
        )
        self._mean_A = companion.statistics.mean_MA[0]
        self._flat_A = companion.statistics.spread_MA[0] <= _FLAT

    def state(self) -> RouterState:
        """What to save."""
        arrays: dict[str, Array] = {f"head_{name}": array for name, array in self._head.items()}
        arrays |= {f"frame_{name}": np.asarray(value) for name, value in vars(self._frame).items()}
        arrays |= self._companion.saved()
        return RouterState(self.name, asdict(self.settings), self.statistics, arrays, self._encoder.state())

    def _moments(self, query: Query) -> tuple[FloatArray, FloatArray]:
        mean_QMA, std_QMA = self._batch_moments((query,))
        return mean_QMA[0], std_QMA[0]

    def _batch_moments(self, queries: Sequence[Query]) -> tuple[FloatArray, FloatArray]:
        vector_QD = self._encoder.encode_batch([query.text for query in queries]).astype(np.float64)
        mean_QMA, std_QMA = self._companion.of_vectors(vector_QD)
        head_QA = self._method.quality(self._head, self._frame.standard(vector_QD))
        mean_QMA[:, 0] = self._mean_A + self._frame.slope * (head_QA - self._mean_A)
        mean_QMA[:, 0, self._flat_A] = self._mean_A[self._flat_A]
        std_QMA[:, 0] *= self._frame.scale
        return mean_QMA, std_QMA


_FLAT: Final = 1e-9
"""Spread under which an arm's outcomes are constant."""


@dataclass(frozen=True)
class Frame:
    """What stands around a head; the names are those of the artefact."""

    centre_D: FloatArray
    unit: float
    slope: float
    """Share of the head's deviation from the average that is believed."""
    scale: float
    """Factor on the companion's deviation of quality."""

    def standard(self, vector_QD: FloatArray) -> FloatArray:
        """Vectors with mean 0 and coordinates of mean square 1 over the training queries."""
        return (vector_QD - self.centre_D) / self.unit


def head_kind(method: HeadMethod[SettingsT]) -> RouterKind:
    """The router made of a method."""

    def fit(table: OutcomeTable, parameters: Mapping[str, Scalar], encoder: Encoder | None) -> TableRouter:
        if encoder is None:
            raise ConfigError(f"router {method.name} needs an encoder")
        settings = read_settings(method.name, method.defaults, parameters)
        return _fit(method, method.candidates(settings), table, encoder)

    def restore(state: RouterState) -> TableRouter:
        return _restore(method, state)

    return RouterKind(fit=fit, restore=restore, reads_text=True)


def _fit(
    method: HeadMethod[SettingsT], candidates: Sequence[SettingsT], table: OutcomeTable, encoder: Encoder
) -> TableRouter:
    companion = ridge.fit(table, {}, encoder)
    statistics = companion.statistics
    cells_QMA = statistics.training_cells(table)
    rows = np.flatnonzero((~np.isnan(cells_QMA[:, 0])).any(axis=1))
    vector_ND = encoder.encode_batch([table.texts[int(row)] for row in rows]).astype(np.float64)
    centre_D = vector_ND.mean(axis=0)
    unit = max(float(np.sqrt(((vector_ND - centre_D) ** 2).mean())), _FLAT)
    lesson = Lesson((vector_ND - centre_D) / unit, cells_QMA[rows, 0], statistics.arms)
    settings, left_out_NA = _chosen(method, candidates, lesson, statistics.mean_MA[0])
    slope = 1.0 if left_out_NA is None else _slope(lesson.quality_NA, left_out_NA, statistics.mean_MA[0])
    frame = Frame(centre_D, unit, slope, 1.0)
    if left_out_NA is not None:
        shrunk_NA = statistics.mean_MA[0] + slope * (left_out_NA - statistics.mean_MA[0])
        scale = _scale(companion, vector_ND, lesson.quality_NA, shrunk_NA)
        frame = Frame(centre_D, unit, slope, scale)
    return HeadRouter(method, settings, encoder, companion, method.train(lesson, settings), frame)


def _chosen(
    method: HeadMethod[SettingsT], candidates: Sequence[SettingsT], lesson: Lesson, mean_A: FloatArray
) -> tuple[SettingsT, FloatArray | None]:
    """The best candidate and its predictions of queries left out; None where there are too few."""
    if len(lesson.quality_NA) < _FEWEST:
        return candidates[-1], None
    tried: list[tuple[float, int, FloatArray]] = []
    for place, settings in enumerate(candidates):
        left_out_NA = np.empty(lesson.quality_NA.shape)
        for part, rows in folds(lesson, mean_A):
            left_out_NA[rows] = method.quality(method.train(part, settings), lesson.vector_ND[rows])
        tried.append((paired_error(lesson.quality_NA - left_out_NA), place, left_out_NA))
    _, place, left_out_NA = min(tried, key=lambda entry: entry[:2])
    return candidates[place], left_out_NA


def folds(lesson: Lesson, mean_A: FloatArray) -> Iterator[tuple[Lesson, IndexArray]]:
    """What is learned from and the rows left out of it, for every fold.

    An arm without a graded cell in a part gets one row of its average there: nothing else is known of it.
    """
    fold_N = np.random.default_rng(0).permutation(len(lesson.quality_NA)) % _FOLDS
    for fold in range(_FOLDS):
        kept = fold_N != fold
        vector_ND, quality_NA = lesson.vector_ND[kept], lesson.quality_NA[kept]
        unseen_A = np.isnan(quality_NA).all(axis=0)
        if unseen_A.any():
            vector_ND = np.concatenate([vector_ND, np.zeros((1, vector_ND.shape[1]))])
            quality_NA = np.concatenate([quality_NA, np.where(unseen_A, mean_A, np.nan)[None]])
        yield Lesson(vector_ND, quality_NA, lesson.arms), np.flatnonzero(~kept)


def _slope(quality_NA: FloatArray, left_out_NA: FloatArray, mean_A: FloatArray) -> float:
    """Least squares of what was measured on what was predicted, both as deviations from the average."""
    predicted_NA = np.where(np.isnan(quality_NA), 0.0, left_out_NA - mean_A)
    size = float((predicted_NA**2).sum())
    slope = float((predicted_NA * np.nan_to_num(quality_NA - mean_A)).sum()) / size if size > 0 else 1.0
    return min(max(slope, 0.0), 1.0)


def _scale(
    companion: ridge.RidgeRouter, vector_ND: FloatArray, quality_NA: FloatArray, left_out_NA: FloatArray
) -> float:
    """Factor that makes the companion's deviation honest about the head's errors."""
    rows_R = tuning_rows(len(vector_ND))
    stated_RA = companion.of_vectors(vector_ND[rows_R])[1][:, 0] ** 2
    residual_RA = (quality_NA - left_out_NA)[rows_R]
    keys_ND = vector_ND.astype(np.float32)
    return float(honest_scales(keys_ND, quality_NA[:, None], residual_RA[:, None], stated_RA[:, None])[0])


def _restore(method: HeadMethod[SettingsT], state: RouterState) -> TableRouter:
    settings = read_settings(method.name, method.defaults, state.parameters)
    if state.encoder is None:
        raise DataError(f"router {method.name}: the artefact lacks its encoder: fit it again")
    parts: dict[str, dict[str, FloatArray]] = {"head": {}, "frame": {}}
    for name, array in state.arrays.items():
        part, _, rest = name.partition("_")
        if part in parts:
            parts[part][rest] = array.astype(np.float64)
    encoder, frame = restore_encoder(state.encoder), parts["frame"]
    if frame.keys() != {"centre_D", "unit", "slope", "scale"}:
        raise DataError(f"router {method.name}: the artefact lacks its frame: fit it again")
    if frame["centre_D"].shape != (encoder.dimension,):
        raise DataError(f"router {method.name}: its frame does not fit its encoder: fit it again")
    companion = ridge.companion(state)
    numbers = (float(frame[name]) for name in ("unit", "slope", "scale"))
    head = parts["head"]
    try:
        found = method.quality(head, np.zeros((1, encoder.dimension)))
    except (KeyError, ValueError) as error:
        raise DataError(
            f"router {method.name}: numbers of its head are missing or misshapen: fit it again"
        ) from error
    if found.shape != (1, len(state.statistics.arms)):
        raise DataError(f"router {method.name}: its head predicts {found.shape[1]} arms: fit it again")
    return HeadRouter(method, settings, encoder, companion, head, Frame(frame["centre_D"], *numbers))
