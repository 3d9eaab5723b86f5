"""The message passing of GraphRouter: arms listen to the queries they have answered. Forward, and its gradient.

Nodes: queries with a vector x (never changed, as in the published code), arms with a state h per measure. A layer:
  message(query → arm) = (y − f(x·h)) · x      what the arm did on the query, less what its state expected
  h ← h + mean over visible edges(message) · (w·P + (1 − w)·P_few),  the mean is Σ / (n + κ), w = n / (n + η)
  decoder(query, arm) = f(x·h) of the last layer, f = σ for quality, identity for the other measures.
With P a multiple of the identity a layer is one step of logistic regression of the arm's edges on query vectors.
P learns to be a better step where there are many edges, P_few where there are few, and the first state to be the average
arm's, raised or lowered by what the description says. So an arm with few edges stays near its description, and one
with many follows its outcomes.
Everything is a matrix product, so the gradient is written out and neither torch nor a graph library is needed.
Shape letters: R queries, A arms, S numbers of a vector (1 first, for the average), M measures, N numbers of a
description, L layers, U = 2 S.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from thinkroute.routers.score_calibration import sigmoid
from thinkroute.routers.table import FloatArray

_SHRINK: Final = 8.0
"""κ: an arm's state counts for as much as so many edges."""
_FEW: Final = 100.0
"""η: with so many edges the step for few and the step for many weigh the same."""


@dataclass(frozen=True)
class Graph:
    """Vectors, descriptions and edges of some queries and arms."""

    vector_RS: FloatArray
    node_AN: FloatArray
    target_RMA: FloatArray
    """On the scale of `Scales.targets`, NaN where there is no edge."""
    visible_RMA: FloatArray
    """1 where the edge sends its message, 0 where it is hidden or absent."""


@dataclass(frozen=True)
class ArmWeights:
    """What is learned of arms."""

    start_MS: FloatArray
    """State of an arm before its description and edges are looked at."""
    node_MN: FloatArray
    """What descriptions say of an arm's averages, the first number of its state; settled before training."""
    step_LMUS: FloatArray
    """P above P_few (U = 2 S rows) of every layer and measure."""


@dataclass(frozen=True)
class _Layer:
    """What a layer computed, kept for its gradient."""

    state_MAS: FloatArray
    expected_RMA: FloatArray
    message_MAU: FloatArray


def arm_states(graph: Graph, weights: ArmWeights) -> FloatArray:
    """States of all arms after the last layer, shape (M, A, S)."""
    return _forward(graph, weights)[0]


def decode(vector_QS: FloatArray, state_MAS: FloatArray) -> FloatArray:
    """Numbers of every query and arm before the link, shape (Q, M, A)."""
    return np.moveaxis(vector_QS @ state_MAS.transpose(0, 2, 1), 0, 1)


def link(value_QMA: FloatArray) -> FloatArray:
    """What decoded numbers mean: probabilities for quality, the others as they are."""
    linked_QMA = value_QMA.copy()
    linked_QMA[:, 0] = sigmoid(value_QMA[:, 0])
    return linked_QMA


def loss_and_gradients(
    graph: Graph, weights: ArmWeights, judged_RMA: FloatArray
) -> tuple[float, dict[str, FloatArray]]:
    """Loss of the judged edges, and its gradients by start, steps and `vector_RS`.

    Cross-entropy for quality, half the squared error for the rest, each averaged over its judged edges. The gradient by vectors comes
    from quality alone: how queries are seen must not hang on what they cost, or a change of prices would change quality.
    """
    state_MAS, layers = _forward(graph, weights)
    wanted_RMA = np.nan_to_num(graph.target_RMA)
    value_RMA = decode(graph.vector_RS, state_MAS)
    error_RMA = (link(value_RMA) - wanted_RMA) * judged_RMA
    count_M1 = np.maximum(judged_RMA.sum(axis=(0, 2)), 1.0)[:, None]
    entropy_RA = np.logaddexp(0.0, value_RMA[:, 0]) - wanted_RMA[:, 0] * value_RMA[:, 0]
    loss = float((entropy_RA * judged_RMA[:, 0]).sum() / count_M1[0, 0])
    loss += 0.5 * float((error_RMA[:, 1:] ** 2 / count_M1[1:]).sum())
    by_vector_RS = np.zeros_like(graph.vector_RS)
    by_state_MAS = _by_state(error_RMA / count_M1, state_MAS, graph, by_vector_RS)
    by_step: list[FloatArray] = []
    for step_MUS, layer in zip(weights.step_LMUS[::-1], layers[::-1], strict=True):
        by_step.append(layer.message_MAU.transpose(0, 2, 1) @ by_state_MAS)
        by_state_MAS = _through_layer(by_state_MAS, step_MUS, layer, graph, by_vector_RS)
    gradients = {
        "start_MS": by_state_MAS.sum(axis=1),
        "step_LMUS": np.stack(by_step[::-1]),
        "vector_RS": by_vector_RS,
    }
    return loss, gradients


def _forward(graph: Graph, weights: ArmWeights) -> tuple[FloatArray, list[_Layer]]:
    wanted_RMA = np.nan_to_num(graph.target_RMA)
    state_MAS = np.repeat(weights.start_MS[:, None], len(graph.node_AN), axis=1)
    state_MAS[:, :, 0] += weights.node_MN @ graph.node_AN.T
    layers: list[_Layer] = []
    count_MA = graph.visible_RMA.sum(axis=0)
    for step_MUS in weights.step_LMUS:
        expected_RMA = link(decode(graph.vector_RS, state_MAS))
        surprise_RMA = (wanted_RMA - expected_RMA) * graph.visible_RMA / (count_MA + _SHRINK)
        mean_MAS = surprise_RMA.transpose(1, 2, 0) @ graph.vector_RS
        many_MA1 = (count_MA / (count_MA + _FEW))[:, :, None]
        message_MAU = np.concatenate([many_MA1 * mean_MAS, (1.0 - many_MA1) * mean_MAS], axis=2)
        layers.append(_Layer(state_MAS, expected_RMA, message_MAU))
        state_MAS = state_MAS + message_MAU @ step_MUS
    return state_MAS, layers


def _through_layer(
    by_state_MAS: FloatArray, step_MUS: FloatArray, layer: _Layer, graph: Graph, by_vector_RS: FloatArray
) -> FloatArray:
    """Gradient by a layer's incoming states from that by its outgoing ones; adds to the gradient by vectors."""
    count_MA = graph.visible_RMA.sum(axis=0)
    many_MA1 = (count_MA / (count_MA + _FEW))[:, :, None]
    by_many_MAS, by_few_MAS = np.split(by_state_MAS @ step_MUS.transpose(0, 2, 1), 2, axis=2)
    by_mean_MAS = many_MA1 * by_many_MAS + (1.0 - many_MA1) * by_few_MAS
    share_RMA = graph.visible_RMA / (count_MA + _SHRINK)
    surprise_RA = (np.nan_to_num(graph.target_RMA[:, 0]) - layer.expected_RMA[:, 0]) * share_RMA[:, 0]
    by_vector_RS += surprise_RA @ by_mean_MAS[0]
    by_expected_RMA = -decode(graph.vector_RS, by_mean_MAS) * share_RMA
    probability_RA = layer.expected_RMA[:, 0]
    by_expected_RMA[:, 0] *= probability_RA * (1.0 - probability_RA)
    return by_state_MAS + _by_state(by_expected_RMA, layer.state_MAS, graph, by_vector_RS)


def _by_state(
    by_value_RMA: FloatArray, state_MAS: FloatArray, graph: Graph, by_vector_RS: FloatArray
) -> FloatArray:
    """Gradient by states from that by decoded values; adds quality's part to the gradient by vectors."""
    by_vector_RS += by_value_RMA[:, 0] @ state_MAS[0]
    return by_value_RMA.transpose(1, 2, 0) @ graph.vector_RS
