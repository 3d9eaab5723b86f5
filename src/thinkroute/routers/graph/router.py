"""GraphRouter: arms are nodes of a graph of queries and outcomes, so an arm can join without retraining.

Feng et al. (arXiv 2410.03834): predict the edges between queries and models from descriptions and known outcomes. What
passes along edges is in `graph.layers`, how it is learned in `graph.training`. A query enters the decoder as it is
before any message, so serving one is a projection and one product per arm and measure, in numpy; arms' states are
settled when fitting. `with_arm` adds an arm from its description, size, price and a few outcomes: its state is
computed by the trained layers, nothing else changes.

Faults of the code published with the paper and of its best-known port, and what is done instead:
1. Labels are one-hot at the best arm, so ties and margins are thrown away. Here edges carry graded scores;
   `labels=paper` is the one-hot label of the reward α·p − β·c, ties to the first arm by name.
2. The message is a sum of two linear maps, of the query and of the edge, averaged over all queries: an arm learns how
   well it does on average, never on what. Here the message is a product, surprise times query.
3. Cost sits inside label and edge, so a new price needs new training. Here quality, tokens, seconds and dollars are edges
   of their own; how queries are seen is learned from quality alone, so costs cannot move quality at all.
4. Scaling is fitted again on every query at inference, and the graph of all training queries is built again. Here both
   are settled.
5. Missing outcomes count as wrong, and an arm without a description gets a random one. Here a missing outcome is no
   edge, and without a description there is the arm's name.
Deviations: message without batch normalisation; the task node is optional and off, since a label is not there when
serving; `folds` models, each without a part of the queries, which calibrates (`score_calibration`) and whose disagreement is part
of the spread. An added arm is calibrated by a map of all arms, and its spread grows as its outcomes are few.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from thinkroute.errors import ConfigError, DataError
from thinkroute.routers.base import ArmStatistics, RouterKind, RouterState, TableRouter
from thinkroute.routers.graph.layers import Graph, arm_states, decode
from thinkroute.routers.graph.nodes import NodeScales, Tasks
from thinkroute.routers.graph.settings import NAME, GraphSettings, settings_of
from thinkroute.routers.graph.training import Lesson, Member, train
from thinkroute.routers.log_scales import Scales
from thinkroute.routers.score_calibration import Calibration, Columns, average, calibrate, flat
from thinkroute.routers.table import ArmInfo, FloatArray, OutcomeTable
from thinkroute.routers.training_rows import TrainingRows
from thinkroute.signals import restore_encoder
from thinkroute.signals.base import Array, Encoder, Scalar
from thinkroute.types import Query


@dataclass(frozen=True)
class Reader:
    """Turns text into what the graph starts from."""

    encoder: Encoder
    centre_D: FloatArray
    tasks: Tasks
    nodes: NodeScales

    def features(self, queries: Sequence[Query]) -> FloatArray:
        """Query vectors, beside their task's where tasks are used."""
        vector_QD = self.encoder.encode_batch([query.text for query in queries])
        return self.tasks.beside(vector_QD, [query.task for query in queries], self.centre_D)


@dataclass(frozen=True)
class Outputs:
    """Turns what is decoded into moments."""

    scales: Scales
    per_arm: Calibration
    """Columns measure by measure."""
    of_all: Calibration
    """One column per measure, for arms that come later."""
    known_MA: NDArray[np.bool_]
    """False where a measure of an arm stays unknown."""
    doubt_MA: FloatArray
    """Standard deviation on top, for arms that came later."""

    def moments(self, value_KQMA: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of the mean, shapes (Q, M, A)."""
        parts: list[tuple[FloatArray, FloatArray]] = []
        for value_QMA in value_KQMA:
            mean_QC, std_QC = self.per_arm(flat(self.scales.scores(value_QMA))[:, :, None])
            parts.append((mean_QC, std_QC))
        mean_QC, std_QC = average(parts)
        shape = value_KQMA.shape[1:]
        std_QMA = np.sqrt(std_QC.reshape(shape) ** 2 + self.doubt_MA**2)
        mean_QMA = np.where(self.known_MA, mean_QC.reshape(shape), np.nan)
        return mean_QMA, np.where(self.known_MA, std_QMA, np.nan)


class GraphRouter(TableRouter):
    """See the module."""

    name: ClassVar[str] = NAME

    def __init__(
        self,
        statistics: ArmStatistics,
        settings: GraphSettings,
        reader: Reader,
        members: Sequence[Member],
        outputs: Outputs,
    ) -> None:
        super().__init__(statistics)
        self.settings = settings
        self._reader, self._members, self._outputs = reader, tuple(members), outputs

    def state(self) -> RouterState:
        """What to save."""
        reader, outputs = self._reader, self._outputs
        arrays: dict[str, Array] = {"centre_D": reader.centre_D, **vars(reader.nodes), **vars(outputs.scales)}
        arrays |= {
            "task_names": np.array(reader.tasks.names, dtype=np.str_),
            "task_TD": reader.tasks.vector_TD,
        }
        arrays |= {"known_MA": outputs.known_MA, "doubt_MA": outputs.doubt_MA}
        arrays |= outputs.per_arm.arrays() | outputs.of_all.arrays("shared")
        for name in _MEMBER:
            arrays[f"member_{name}"] = np.stack([getattr(member, name) for member in self._members])
        return RouterState(self.name, asdict(self.settings), self.statistics, arrays, reader.encoder.state())

    def with_arm(self, arm: str, info: ArmInfo, edges: OutcomeTable | None = None) -> GraphRouter:
        """A router that knows one arm more; predictions of the others stay as they are.

        Args:
            arm: Its id.
            info: What is known of it. Without a price and without measured dollars its dollars stay unknown.
            edges: A table with a column of that name; the more graded queries the better, a handful is enough to begin.

        Raises:
            ConfigError: the arm is known already, or the router was fitted on one-hot labels.
            DataError: the table has no such arm.
        """
        if arm in self.arms:
            raise ConfigError(f"router {NAME}: arm {arm!r} is known already: fit again to learn more of it")
        if self.settings.labels == "paper":
            raise ConfigError(
                f"router {NAME}: labels=paper compares arms with one another: fit with labels=scores"
            )
        cells_EMA = self._edge_cells(arm, edges)
        queries = [Query(text) for text in edges.texts] if edges is not None else []
        members = [self._joined(member, arm, info, queries, cells_EMA) for member in self._members]
        statistics = _statistics_with(self.statistics, arm, cells_EMA, edges)
        outputs = self._outputs_with(cells_EMA, info)
        return GraphRouter(statistics, self.settings, self._reader, members, outputs)

    def _edge_cells(self, arm: str, edges: OutcomeTable | None) -> FloatArray:
        """Cells of a new arm, shape (E, M, 1), NaN where not measured."""
        if edges is None:
            return np.empty((0, len(self.statistics.measures), 1))
        column = edges.select_arms([arm])
        empty = np.full((len(edges), 1), np.nan)
        return np.stack([column.measured.get(m, empty) for m in self.statistics.measures], axis=1)

    def _joined(
        self, member: Member, arm: str, info: ArmInfo, queries: Sequence[Query], cells_EMA: FloatArray
    ) -> Member:
        """A model whose states hold the new arm's."""
        reader = self._reader
        node_1N = reader.nodes.nodes([arm], {arm: info}, reader.encoder)
        target_EMA = self._outputs.scales.targets(cells_EMA)
        vector_ES = (
            member.vectors(reader.features(queries)) if queries else np.empty((0, member.state_MAS.shape[2]))
        )
        graph = Graph(vector_ES, node_1N, target_EMA, (~np.isnan(target_EMA)).astype(np.float64))
        state_M1S = arm_states(graph, member.weights)
        return replace(member, state_MAS=np.concatenate([member.state_MAS, state_M1S], axis=1))

    def _outputs_with(self, cells_EMA: FloatArray, info: ArmInfo) -> Outputs:
        outputs, measures = self._outputs, self.statistics.measures
        arms, count_M = len(self.arms), (~np.isnan(cells_EMA[:, :, 0])).sum(axis=0)
        order = [
            number
            for row in range(len(measures))
            for number in (*range(row * arms, (row + 1) * arms), len(measures) * arms + row)
        ]
        known_M = (
            np.array([measure != "cost_usd" for measure in measures])
            | (count_M > 0)
            | (info.price is not None)
        )
        with np.errstate(invalid="ignore"):
            noise_M = np.sqrt(np.nanmean(self.statistics.spread_MA**2, axis=1))
        doubt_M = noise_M / np.sqrt(count_M + 1.0)
        return replace(
            outputs,
            per_arm=outputs.per_arm.joined(outputs.of_all, order),
            known_MA=np.concatenate([outputs.known_MA, known_M[:, None]], axis=1),
            doubt_MA=np.concatenate([outputs.doubt_MA, doubt_M[:, None]], axis=1),
        )

    def _moments(self, query: Query) -> tuple[FloatArray, FloatArray]:
        mean_QMA, std_QMA = self._batch_moments((query,))
        return mean_QMA[0], std_QMA[0]

    def _batch_moments(self, queries: Sequence[Query]) -> tuple[FloatArray, FloatArray]:
        feature_QD = self._reader.features(queries)
        decoded = [decode(member.vectors(feature_QD), member.state_MAS) for member in self._members]
        return self._outputs.moments(np.stack(decoded))


_MEMBER: Final = tuple(field.name for field in fields(Member))


def fit(table: OutcomeTable, parameters: Mapping[str, Scalar], encoder: Encoder | None) -> TableRouter:
    """Train the models, each without its part of the queries, and calibrate on what they did not see."""
    if encoder is None:
        raise ConfigError(f"router {NAME} needs an encoder")
    settings = settings_of(parameters)
    rows = TrainingRows.of(table)
    vector_RD = encoder.encode_batch(rows.texts)
    reader = Reader(
        encoder,
        vector_RD.mean(axis=0, dtype=np.float64),
        Tasks.of(rows.tasks, vector_RD, used=settings.task_nodes),
        NodeScales.of(rows.statistics.arms, table.arm_info, encoder),
    )
    cells_RMA = rows.cells_RMA
    labelled_RMA = _one_hot(rows, settings) if settings.labels == "paper" else cells_RMA
    scales = Scales.of(labelled_RMA, rows.statistics.measures, shared=True)
    lesson = Lesson(
        reader.tasks.beside(vector_RD, rows.tasks, reader.centre_D),
        encoder.dimension,
        reader.nodes.nodes(rows.statistics.arms, table.arm_info, encoder),
        scales.targets(labelled_RMA),
    )
    members: list[Member] = []
    score_RMA = np.full(cells_RMA.shape, np.nan)
    for number, fold in enumerate(rows.folds(settings.folds, settings.seed)):
        member = train(lesson.take(fold.train), settings, settings.seed + number)
        held_HS = member.vectors(lesson.feature_RD[fold.held_out])
        score_RMA[fold.held_out] = scales.scores(decode(held_HS, member.state_MAS))
        members.append(member)
    outputs = _outputs(rows, scales, score_RMA)
    return GraphRouter(rows.statistics, settings, reader, members, outputs)


def restore(state: RouterState) -> TableRouter:
    """Rebuild from saved state."""
    settings = settings_of(state.parameters)
    if state.encoder is None:
        raise DataError(f"router {NAME}: the artefact lacks its encoder: fit it again")
    encoder = restore_encoder(state.encoder)
    arrays = state.arrays
    measures, arms = state.statistics.mean_MA.shape
    try:
        found = _Saved(arrays)
        size = encoder.dimension
        names = tuple(str(name) for name in found.array("task_names", None))
        tasks = Tasks(names, found.floats("task_TD", (len(names), size)))
        reader = Reader(encoder, found.floats("centre_D", (size,)), tasks, NodeScales.restored(arrays, size))
        outputs = Outputs(
            Scales.restored(arrays, measures, 1),
            Calibration.of(arrays, measures * arms),
            Calibration.of(arrays, measures, prefix="shared"),
            found.floats("known_MA", (measures, arms)).astype(np.bool_),
            found.floats("doubt_MA", (measures, arms)),
        )
        members = found.members(size * (2 if names else 1), measures, arms, size + 3)
    except DataError as error:
        raise DataError(f"router {NAME}: {error}: fit it again") from error
    return GraphRouter(state.statistics, settings, reader, members, outputs)


KIND: Final = RouterKind(fit=fit, restore=restore, reads_text=True)


@dataclass(frozen=True)
class _Saved:
    """Arrays of an artefact, checked as they are taken."""

    arrays: Mapping[str, Array]

    def array(self, name: str, shape: tuple[int, ...] | None) -> Array:
        """One array, of the shape asked for."""
        array = self.arrays.get(name)
        if array is None or (shape is not None and array.shape != shape):
            raise DataError(f"array {name} is missing" + (f" or not of shape {shape}" if shape else ""))
        return array

    def floats(self, name: str, shape: tuple[int, ...]) -> FloatArray:
        """One array of numbers."""
        return self.array(name, shape).astype(np.float64)

    def members(self, features: int, measures: int, arms: int, nodes: int) -> list[Member]:
        """The models, one after the other."""
        models, _, width = self.array("member_query_DH", None).shape
        layers, size = self.array("member_step_LMUS", None).shape[1], width + 1
        shapes = {
            "query_DH": (models, features, width),
            "start_MS": (models, measures, size),
            "node_MN": (models, measures, nodes),
            "step_LMUS": (models, layers, measures, 2 * size, size),
            "state_MAS": (models, measures, arms, size),
        }
        found = {name: self.floats(f"member_{name}", shape) for name, shape in shapes.items()}
        return [Member(**{name: array[model] for name, array in found.items()}) for model in range(models)]


def _one_hot(rows: TrainingRows, settings: GraphSettings) -> FloatArray:
    """Cells whose quality is 1 for the arm of best reward, 0 for the other measured ones: the paper's labels."""
    quality_RA = rows.quality_RA
    reward_RA = settings.reward_quality * _stretched(quality_RA)
    if settings.reward_cost:
        if "cost_usd" not in rows.statistics.measures:
            raise ConfigError(
                f"router {NAME}: reward_cost={settings.reward_cost}, but the table has no dollars"
            )
        cost_RA = rows.cells_RMA[:, rows.statistics.measures.index("cost_usd")]
        reward_RA = reward_RA - settings.reward_cost * _stretched(cost_RA)
    best_R = np.where(np.isnan(reward_RA), -np.inf, reward_RA).argmax(axis=1)
    labelled_RMA = rows.cells_RMA.copy()
    one_hot_RA = np.eye(quality_RA.shape[1])[best_R]
    labelled_RMA[:, 0] = np.where(np.isnan(quality_RA), np.nan, one_hot_RA)
    return labelled_RMA


def _stretched(cells_RA: FloatArray) -> FloatArray:
    """Cells from 0 to 1 over all of them."""
    low, high = float(np.nanmin(cells_RA)), float(np.nanmax(cells_RA))
    return (cells_RA - low) / max(high - low, 1e-12)


def _outputs(rows: TrainingRows, scales: Scales, score_RMA: FloatArray) -> Outputs:
    cells_RMA, measures = rows.cells_RMA, rows.cells_RMA.shape[1]
    per_arm = calibrate(flat(score_RMA)[:, :, None], flat(cells_RMA), Columns.of(cells_RMA))
    together_SM1 = np.moveaxis(cells_RMA, 1, 2).reshape(-1, measures, 1)
    score_SM1 = np.moveaxis(score_RMA, 1, 2).reshape(-1, measures, 1)
    of_all = calibrate(score_SM1, together_SM1[:, :, 0], Columns.of(together_SM1))
    # A later arm may well be cheaper or longer-winded than all known ones.
    of_all = replace(of_all, low_C=np.zeros(measures), high_C=np.where(of_all.logistic_C, 1.0, np.inf))
    known_MA = rows.statistics.count_MA > 0
    return Outputs(scales, per_arm, of_all, known_MA, np.zeros(known_MA.shape))


def _statistics_with(
    statistics: ArmStatistics, arm: str, cells_EMA: FloatArray, edges: OutcomeTable | None
) -> ArmStatistics:
    """Arm statistics with one arm more; what was not measured of it stays unknown."""
    cells_EM = cells_EMA[:, :, 0]
    count_M = (~np.isnan(cells_EM)).sum(axis=0).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_M = np.nansum(cells_EM, axis=0) / count_M
        spread_M = np.sqrt(np.nansum((cells_EM - mean_M) ** 2, axis=0) / count_M)
    line_3 = (
        np.nanmean(statistics.prompt_line_3A, axis=1)
        if "prompt_tokens" in statistics.measures
        else np.full(3, np.nan)
    )
    if edges is not None and count_M[0]:
        own_3 = ArmStatistics.of(edges.select_arms([arm])).prompt_line_3A[:, 0]
        line_3 = np.where(np.isnan(own_3), line_3, own_3)
    told = f"{statistics.data_hash} {arm} {'' if edges is None else edges.digest()}"
    return replace(
        statistics,
        arms=(*statistics.arms, arm),
        mean_MA=np.concatenate([statistics.mean_MA, mean_M[:, None]], axis=1),
        spread_MA=np.concatenate([statistics.spread_MA, spread_M[:, None]], axis=1),
        count_MA=np.concatenate([statistics.count_MA, count_M[:, None]], axis=1),
        prompt_line_3A=np.concatenate([statistics.prompt_line_3A, line_3[:, None]], axis=1),
        data_hash=hashlib.sha256(told.encode()).hexdigest(),
    )
