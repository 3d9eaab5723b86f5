"""RouterDC's two contrastive losses with their gradients, who takes part in them, and the clusters of the second.

Chen et al., "RouterDC: Query-Based Router by Dual Contrastive Learning" (arXiv 2409.19886). With s_a the similarity of
a query and arm a, τ the temperature:
  sample–arm:    L1 = Σ over positives p of −log( e^{s_p/τ} / (e^{s_p/τ} + Σ over negatives n of e^{s_n/τ}) )
  sample–sample: L2 = −log( e^{cos(x, x⁺)/τ} / (e^{cos(x, x⁺)/τ} + Σ over H negatives e^{cos(x, x⁻)/τ}) )
A positive competes with the negatives only, never with another positive: that is the cure for ties. Positives are the
K⁺ best arms except those of score 0, negatives the K⁻ worst except those of score above 0.5.
Gradients are written out, so that one implementation trains a linear map in numpy and, handed to torch as the
gradient of its vectors, a whole encoder. Shape letters: R rows, B batch, A arms, K picked arms, H other queries,
E dimension of the shared space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from thinkroute.routers.table import FloatArray
from thinkroute.routers.training_rows import IntArray

_GOOD: Final = 0.5
"""An arm whose score is above this is never pushed away."""
_ROUNDS: Final = 25
_TINY: Final = 1e-12


@dataclass(frozen=True)
class Picks:
    """Arms that take part in the sample–arm loss."""

    positive_BK: IntArray
    positive_counts_BK: NDArray[np.bool_]
    negative_BK: IntArray
    negative_counts_BK: NDArray[np.bool_]


def pick(quality_BA: FloatArray, positives: int, negatives: int, rng: np.random.Generator | None) -> Picks:
    """The best and the worst arms of each row; a missing cell never counts.

    Args:
        quality_BA: Scores in [0, 1], NaN where not measured.
        positives: K⁺, at most.
        negatives: K⁻, at most.
        rng: Breaks ties by drawing; None breaks them by column, as the paper's code does, so that among equally good
            arms the same one is always preferred.
    """
    tie_BA = np.broadcast_to(np.arange(quality_BA.shape[1], dtype=np.float64), quality_BA.shape)
    if rng is not None:
        tie_BA = rng.random(quality_BA.shape)
    best_BA = np.lexsort((tie_BA, -np.where(np.isnan(quality_BA), -np.inf, quality_BA)))
    worst_BA = np.lexsort((tie_BA, np.where(np.isnan(quality_BA), np.inf, quality_BA)))
    positive_BK, negative_BK = best_BA[:, :positives], worst_BA[:, :negatives]
    with np.errstate(invalid="ignore"):
        positive_counts_BK = np.take_along_axis(quality_BA, positive_BK, axis=1) > 0.0
        negative_counts_BK = np.take_along_axis(quality_BA, negative_BK, axis=1) <= _GOOD
    return Picks(positive_BK, positive_counts_BK, negative_BK, negative_counts_BK)


def sample_arm_loss(similarity_BA: FloatArray, picks: Picks, temperature: float) -> tuple[float, FloatArray]:
    """L1, summed over positives and averaged over the batch, and its gradient by similarity."""
    positive_BK = np.take_along_axis(similarity_BA, picks.positive_BK, axis=1) / temperature
    negative_BK = np.take_along_axis(similarity_BA, picks.negative_BK, axis=1) / temperature
    negative_BK = np.where(picks.negative_counts_BK, negative_BK, -np.inf)
    # One row per positive: itself first, then the negatives.
    logit_BPN = np.concatenate(
        [positive_BK[:, :, None], np.repeat(negative_BK[:, None], positive_BK.shape[1], axis=1)], axis=2
    )
    loss_BP, share_BPN = _first_against_rest(logit_BPN)
    counts_BP = picks.positive_counts_BK / (len(similarity_BA) * temperature)
    gradient_BA = np.zeros_like(similarity_BA)
    row_B1 = np.arange(len(similarity_BA))[:, None]
    np.add.at(gradient_BA, (row_B1, picks.positive_BK), counts_BP * (share_BPN[:, :, 0] - 1.0))
    np.add.at(
        gradient_BA, (row_B1, picks.negative_BK), (counts_BP[:, :, None] * share_BPN[:, :, 1:]).sum(axis=1)
    )
    return float((loss_BP * picks.positive_counts_BK).sum() / len(similarity_BA)), gradient_BA


def sample_sample_loss(
    same_B: FloatArray, other_BH: FloatArray, temperature: float
) -> tuple[float, FloatArray, FloatArray]:
    """L2 of cosines, averaged over the batch, and its gradients by both."""
    logit_BN = np.concatenate([same_B[:, None], other_BH], axis=1) / temperature
    loss_B, share_BN = _first_against_rest(logit_BN)
    share_BN[:, 0] -= 1.0
    share_BN /= len(same_B) * temperature
    return float(loss_B.mean()), share_BN[:, 0], share_BN[:, 1:]


@dataclass(frozen=True)
class Weights:
    """How the two losses are put together."""

    temperature: float
    sample_loss: float
    """λ."""


def dual_loss(
    raw_NE: FloatArray, arm_AE: FloatArray, picks: Picks, weights: Weights, others: int
) -> tuple[float, FloatArray, FloatArray]:
    """L1 + λ·L2 of vectors of any length, and its gradients by them and by the arms.

    Args:
        raw_NE: The batch; where there is a second loss, followed by one partner per row and by `others` queries of
            other clusters per row, row by row.
        arm_AE: The arms' vectors.
        picks: Of the batch.
        weights: Temperature and λ.
        others: H, or 0 for the first loss alone.
    """
    size = len(picks.positive_BK)
    unit_NE, length_N1 = unit(raw_NE)
    arm_unit_AE, arm_length_A1 = unit(arm_AE)
    anchor_BE = unit_NE[:size]
    loss, by_similarity_BA = sample_arm_loss(anchor_BE @ arm_unit_AE.T, picks, weights.temperature)
    gradient_NE = np.zeros_like(unit_NE)
    gradient_NE[:size] = by_similarity_BA @ arm_unit_AE
    if others:
        same_BE, other_BHE = unit_NE[size : 2 * size], unit_NE[2 * size :].reshape(size, others, -1)
        same_B, other_BH = (anchor_BE * same_BE).sum(axis=1), (anchor_BE[:, None] * other_BHE).sum(axis=2)
        second, by_same_B, by_other_BH = sample_sample_loss(same_B, other_BH, weights.temperature)
        by_same_B, by_other_BH = weights.sample_loss * by_same_B, weights.sample_loss * by_other_BH
        loss += weights.sample_loss * second
        gradient_NE[:size] += by_same_B[:, None] * same_BE + (by_other_BH[:, :, None] * other_BHE).sum(axis=1)
        gradient_NE[size : 2 * size] = by_same_B[:, None] * anchor_BE
        gradient_NE[2 * size :] = (by_other_BH[:, :, None] * anchor_BE[:, None]).reshape(-1, raw_NE.shape[1])
    by_arm_AE = by_similarity_BA.T @ anchor_BE
    return (
        loss,
        _through_unit(gradient_NE, unit_NE, length_N1),
        _through_unit(by_arm_AE, arm_unit_AE, arm_length_A1),
    )


def unit(raw_NE: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Vectors of length 1, and the lengths they had."""
    length_N1 = np.maximum(np.linalg.norm(raw_NE, axis=1, keepdims=True), _TINY)
    return raw_NE / length_N1, length_N1


def clusters(vector_RD: FloatArray, count: int, rng: np.random.Generator) -> IntArray:
    """k-means on unit vectors, shape (R,): cluster of each row. Starts far apart (k-means++)."""
    unit_RD, _ = unit(vector_RD)
    centre_CD = unit_RD[[int(rng.integers(len(unit_RD)))]]
    while len(centre_CD) < min(count, len(unit_RD)):
        far_R = np.maximum(1.0 - (unit_RD @ centre_CD.T).max(axis=1), 0.0) + _TINY
        chosen = int(rng.choice(len(unit_RD), p=far_R / far_R.sum()))
        centre_CD = np.concatenate([centre_CD, unit_RD[[chosen]]])
    nearest_R = np.zeros(len(unit_RD), dtype=np.intp)
    for _ in range(_ROUNDS):
        nearest_R = (unit_RD @ centre_CD.T).argmax(axis=1)
        member_RC = (nearest_R[:, None] == np.arange(len(centre_CD))).astype(np.float64)
        sum_CD = member_RC.T @ unit_RD
        length_C1 = np.linalg.norm(sum_CD, axis=1, keepdims=True)
        centre_CD = np.where(length_C1 > 0, sum_CD / np.maximum(length_C1, _TINY), centre_CD)
    return nearest_R


def partners(
    row_B: IntArray, cluster_R: IntArray, others: int, rng: np.random.Generator
) -> tuple[IntArray, IntArray] | None:
    """For each row another one of its cluster, shape (B,), and `others` from outside, shape (B, H).

    A row alone in its cluster is its own partner. None when there is one cluster only: nothing is outside.
    """
    order_R = np.argsort(cluster_R, kind="stable")
    size_C = np.bincount(cluster_R)
    start_C = np.cumsum(size_C) - size_C
    place_R = np.empty(len(cluster_R), dtype=np.intp)
    place_R[order_R] = np.arange(len(cluster_R))
    start_B, size_B = start_C[cluster_R[row_B]], size_C[cluster_R[row_B]]
    if np.any(size_B == len(cluster_R)):
        return None
    # A step of 1 to size − 1 inside the cluster never ends where it began; with one row it has to.
    step_B = 1 + (rng.random(len(row_B)) * np.maximum(size_B - 1, 1)).astype(np.intp)
    same_B = order_R[start_B + (place_R[row_B] - start_B + step_B) % size_B]
    outside_B1 = (len(cluster_R) - size_B)[:, None]
    drawn_BH = (rng.random((len(row_B), others)) * outside_B1).astype(np.intp)
    drawn_BH += np.where(drawn_BH >= start_B[:, None], size_B[:, None], 0)
    return same_B, order_R[drawn_BH]


def _first_against_rest(logit_N: FloatArray) -> tuple[FloatArray, FloatArray]:
    """−log of the first one's softmax share along the last axis, and all shares."""
    shifted_N = logit_N - logit_N.max(axis=-1, keepdims=True)
    weight_N = np.exp(shifted_N)
    total = weight_N.sum(axis=-1, keepdims=True)
    return np.log(total[..., 0]) - shifted_N[..., 0], weight_N / total


def _through_unit(gradient_NE: FloatArray, unit_NE: FloatArray, length_N1: FloatArray) -> FloatArray:
    """Gradient by a vector from that by its unit vector: only what turns it counts."""
    along_N1 = (gradient_NE * unit_NE).sum(axis=1, keepdims=True)
    return (gradient_NE - along_N1 * unit_NE) / length_N1
