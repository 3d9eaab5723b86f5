"""Training GraphRouter with hidden edges: pass messages over a part of the edges, be judged by the others.

Every step draws some queries and, for each arm, a share of its edges to show, from a handful to most of them: what is
learned must serve an arm with four outcomes as well as one with thousands. Half the descriptions are replaced by the
average one, so that steps work for an arm that its description tells nothing of.
Starting point: vectors are the leading principal directions, a layer is one step of ridge regression, the first state
is the average arm's, and descriptions tell averages only.
Shape letters as in `graph.layers`; D numbers of a query's vector beside its task's, H = S − 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from thinkroute.routers.adamw import AdamW
from thinkroute.routers.graph.layers import ArmWeights, Graph, arm_states, loss_and_gradients
from thinkroute.routers.graph.settings import GraphSettings
from thinkroute.routers.score_calibration import logit
from thinkroute.routers.table import FloatArray
from thinkroute.routers.training_rows import IntArray

_MOST_SHOWN: Final = 0.7
_FEWEST_SHOWN: Final = 1.0
_HIDDEN_DESCRIPTIONS: Final = 0.5
_HIDDEN_TASKS: Final = 0.5
_PENALTIES: Final = (0.01, 1.0)
"""Of the ridge regressions that the steps for many and for few edges start as, on the encoder's vectors."""
_NODE_PENALTY: Final = 1.0
"""Of the ridge regression that tells an arm's averages from its description."""


@dataclass(frozen=True)
class Lesson:
    """Everything that is known of the training queries and the arms."""

    feature_RD: FloatArray
    """Vectors as `Tasks.beside` gives them."""
    own: int
    """How many of the D belong to the query itself; the rest are its task's."""
    node_AN: FloatArray
    target_RMA: FloatArray

    def take(self, rows: IntArray) -> Lesson:
        """These queries."""
        return Lesson(self.feature_RD[rows], self.own, self.node_AN, self.target_RMA[rows])


@dataclass(frozen=True)
class Member:
    """One trained model. The names, with a leading shape letter K for models, are those of the artefact."""

    query_DH: FloatArray
    start_MS: FloatArray
    node_MN: FloatArray
    step_LMUS: FloatArray
    state_MAS: FloatArray
    """Of all arms, over all training edges."""

    @property
    def weights(self) -> ArmWeights:
        """What message passing needs."""
        return ArmWeights(self.start_MS, self.node_MN, self.step_LMUS)

    def vectors(self, feature_QD: FloatArray) -> FloatArray:
        """Layer-0 vectors of queries, shape (Q, S): a 1, then the projection."""
        return _with_one(feature_QD @ self.query_DH)


def train(lesson: Lesson, settings: GraphSettings, seed: int) -> Member:
    """Learn projection, start and steps; then settle the arms' states."""
    rng = np.random.default_rng(seed)
    learned, node_MN = _first_weights(lesson, settings), _averages_from_nodes(lesson)
    optimiser = AdamW(
        learned,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        steps=settings.steps,
    )
    size = min(settings.batch_size, len(lesson.feature_RD))
    for _ in range(settings.steps):
        row_B = rng.choice(len(lesson.feature_RD), size=size, replace=False)
        feature_BD = _hide_tasks(lesson.feature_RD[row_B], lesson.own, rng)
        graph, judged_RMA = _hide_edges(
            lesson, lesson.target_RMA[row_B], feature_BD @ learned["query_DH"], rng
        )
        _, gradients = loss_and_gradients(graph, _arm_weights(learned, node_MN), judged_RMA)
        gradients["query_DH"] = feature_BD.T @ gradients.pop("vector_RS")[:, 1:]
        optimiser.step(gradients)
    visible_RMA = (~np.isnan(lesson.target_RMA)).astype(np.float64)
    vector_RS = _with_one(lesson.feature_RD @ learned["query_DH"])
    whole = Graph(vector_RS, lesson.node_AN, lesson.target_RMA, visible_RMA)
    return Member(**learned, node_MN=node_MN, state_MAS=arm_states(whole, _arm_weights(learned, node_MN)))


def _first_weights(lesson: Lesson, settings: GraphSettings) -> dict[str, FloatArray]:
    own_RD = lesson.feature_RD[:, : lesson.own]
    value_D, turn_DD = np.linalg.eigh(own_RD.T @ own_RD / len(own_RD))
    leading = np.argsort(value_D)[::-1][: settings.dimension]
    variance_H = np.maximum(value_D[leading], 0.0)
    # Coordinates of variance 1 on average; the penalties are scaled alike.
    stretch = len(leading) / max(float(variance_H.sum()), 1e-9)
    query_DH = np.zeros((lesson.feature_RD.shape[1], len(leading)))
    for start in range(0, len(query_DH), lesson.own):
        # A task's vector starts in the space of its queries.
        query_DH[start : start + lesson.own] = turn_DD[:, leading] * np.sqrt(stretch)
    # The average is not penalised beyond the layer's own shrinkage.
    penalty_S = np.concatenate([[0.0], np.full(len(leading), stretch)])
    curvature_S = np.concatenate([[1.0], variance_H * stretch])
    mean = float(np.nanmean(lesson.target_RMA[:, 0]))
    bend_M1 = np.ones((lesson.target_RMA.shape[1], 1))
    bend_M1[0] = max(mean * (1.0 - mean), 0.05)
    many_MS, few_MS = (1.0 / (bend_M1 * curvature_S + penalty * penalty_S) for penalty in _PENALTIES)
    step_MUS = np.concatenate([_diagonals(many_MS), _diagonals(few_MS)], axis=1)
    return {
        "query_DH": query_DH,
        "start_MS": _average_arm(lesson.target_RMA, _with_one(own_RD @ query_DH[: lesson.own]), many_MS),
        "step_LMUS": np.stack([step_MUS] * settings.layers),
    }


def _average_arm(target_RMA: FloatArray, vector_RS: FloatArray, step_MS: FloatArray) -> FloatArray:
    """The state of an arm that does on every query as arms do on average, by one step of ridge regression."""
    count_RM = (~np.isnan(target_RMA)).sum(axis=2)
    mean_RM = np.nansum(target_RMA, axis=2) / np.maximum(count_RM, 1)
    start_MS = np.zeros(step_MS.shape)
    level = float(np.nanmean(target_RMA[:, 0]))
    start_MS[0, 0] = float(logit(np.array(level)))
    surprise_RM = np.where(count_RM > 0, mean_RM, 0.0)
    surprise_RM[:, 0] -= np.where(count_RM[:, 0] > 0, level, 0.0)
    return start_MS + (surprise_RM.T @ vector_RS / len(vector_RS)) * step_MS


def _averages_from_nodes(lesson: Lesson) -> FloatArray:
    """Ridge regression of each arm's averages on its description, shape (M, N).

    Not trained any further: with a dozen arms a description that may say on *which* queries an arm is good learns the arms by
    heart, and is wrong about the next one.
    """
    count_MA = (~np.isnan(lesson.target_RMA)).sum(axis=0)
    mean_MA = np.nansum(lesson.target_RMA, axis=0) / np.maximum(count_MA, 1)
    level = float(np.nanmean(lesson.target_RMA[:, 0]))
    mean_MA[0] = logit(mean_MA[0]) - logit(np.array(level))
    mean_MA = np.where(count_MA > 0, mean_MA, 0.0)
    likeness_AA = lesson.node_AN @ lesson.node_AN.T + _NODE_PENALTY * np.eye(len(lesson.node_AN))
    return np.linalg.solve(likeness_AA, mean_MA.T).T @ lesson.node_AN


def _diagonals(diagonal_MS: FloatArray) -> FloatArray:
    return diagonal_MS[:, :, None] * np.eye(diagonal_MS.shape[1])


def _arm_weights(learned: dict[str, FloatArray], node_MN: FloatArray) -> ArmWeights:
    return ArmWeights(learned["start_MS"], node_MN, learned["step_LMUS"])


def _hide_tasks(feature_BD: FloatArray, own: int, rng: np.random.Generator) -> FloatArray:
    if own == feature_BD.shape[1]:
        return feature_BD
    told_B = rng.random(len(feature_BD)) >= _HIDDEN_TASKS
    return np.concatenate([feature_BD[:, :own], feature_BD[:, own:] * told_B[:, None]], axis=1)


def _hide_edges(
    lesson: Lesson, target_BMA: FloatArray, projected_BH: FloatArray, rng: np.random.Generator
) -> tuple[Graph, FloatArray]:
    """A graph with some edges and descriptions hidden, and which edges judge it: the hidden ones."""
    measured_BMA = ~np.isnan(target_BMA)
    arms = target_BMA.shape[2]
    fewest = min(_FEWEST_SHOWN / len(target_BMA), _MOST_SHOWN)
    drawn_A: FloatArray = rng.random((arms,))
    share_A = np.exp(math.log(fewest) + math.log(_MOST_SHOWN / fewest) * drawn_A)
    shown_BA = rng.random((len(target_BMA), arms)) < share_A
    visible_BMA = (measured_BMA & shown_BA[:, None]).astype(np.float64)
    node_AN = lesson.node_AN.copy()
    # Descriptions are centred, so zeros are the average one.
    node_AN[rng.random(arms) < _HIDDEN_DESCRIPTIONS] = 0.0
    graph = Graph(_with_one(projected_BH), node_AN, target_BMA, visible_BMA)
    return graph, measured_BMA.astype(np.float64) - visible_BMA


def _with_one(projected_QH: FloatArray) -> FloatArray:
    return np.concatenate([np.ones((len(projected_QH), 1)), projected_QH], axis=1)
