"""Arms and queries in one space: score(m, q) = w·(v_m ⊙ W q), the arm's vector v_m scaled to unit length.

`form="pointwise"` is EmbedLLM (arXiv 2410.02223): σ(score + b_m) is the probability that arm m answers well, by
cross-entropy on the scores themselves. `form="pairwise"` is RouteLLM's matrix factorisation (arXiv 2406.18665):
σ(score_a − score_b) is the probability that a beats b, on preferences derived from pairs of scores, ties
dropped, Gaussian noise on q in training; `relative` turns such scores into qualities.

Deviations: RouteLLM scores one fixed pair of models whatever pair it routes and counts every win alike; here the arm's
identity always enters and a win weighs as much as the scores differ (`labels="paper"` counts wins alike). EmbedLLM predicts two
classes from right and wrong; here graded scores count as they are. Vectors start from a hash of the arm's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from thinkroute.errors import ConfigError
from thinkroute.routers.clusters import IndexArray
from thinkroute.routers.gradient import Gradients, Schedule, Weights, descend, named_start, seen_and_filled
from thinkroute.routers.heads import Arrays, HeadMethod, Lesson, head_kind
from thinkroute.routers.relative import pair_slope, place_scores, placed
from thinkroute.routers.score_calibration import sigmoid
from thinkroute.routers.table import FloatArray
from thinkroute.signals.base import Matrix

FORMS: Final = ("pointwise", "pairwise")
LABELS: Final = ("scores", "paper")
_PENALTY: Final = 1000.0


@dataclass(frozen=True)
class MatrixFactorisationSettings:
    """Settings."""

    form: str = "pointwise"
    """`pointwise` (P of a good answer) or `pairwise` (P that one arm beats another)."""
    labels: str = "scores"
    """Pairwise only: `scores` weighs a win by the difference, `paper` counts wins alike."""
    dimension: int = 32
    """Length of the arms' vectors."""
    noise: float = 0.1
    """Standard deviation of the noise on standardised vectors in training."""
    epochs: int = 40
    """Passes over the training queries."""
    decay: float = 0.3
    """Decoupled weight decay."""
    seed: int = 0
    """Of the start of W, of batches and of noise."""


def candidates(settings: MatrixFactorisationSettings) -> Sequence[MatrixFactorisationSettings]:
    """The settings themselves, checked."""
    for value, known, name in ((settings.form, FORMS, "form"), (settings.labels, LABELS, "labels")):
        if value not in known:
            raise ConfigError(
                f"router matrix_factorisation: {name}={value!r} must be one of {', '.join(known)}"
            )
    if settings.dimension < 1 or settings.epochs < 1 or settings.noise < 0 or settings.decay < 0:
        raise ConfigError(
            "router matrix_factorisation: dimension and epochs are at least 1, noise and decay at least 0"
        )
    return [settings]


def train(lesson: Lesson, settings: MatrixFactorisationSettings) -> dict[str, FloatArray]:
    """Learn v, w and W."""
    weights = _descended(lesson, settings)
    arrays = {name: weight.astype(np.float64) for name, weight in weights.items()}
    unit_AK = arrays.pop("arm_AK")
    unit_AK /= np.linalg.norm(unit_AK, axis=1, keepdims=True)
    arrays["arm_AK"] = unit_AK * arrays.pop("weight_K")
    if settings.form == "pointwise":
        return arrays
    del arrays["bias_A"]
    score_NA = _scores(arrays, lesson.vector_ND)
    return {**arrays, **place_scores(lesson.vector_ND, lesson.quality_NA, score_NA, _PENALTY)}


def quality(arrays: Arrays, vector_QD: FloatArray) -> FloatArray:
    """Quality of every arm."""
    score_QA = _scores(arrays, vector_QD)
    if "bias_A" in arrays:
        return sigmoid(score_QA + arrays["bias_A"])
    return placed(arrays, vector_QD, score_QA)


def _scores(arrays: Arrays, vector_QD: FloatArray) -> FloatArray:
    return vector_QD @ arrays["query_DK"] @ arrays["arm_AK"].T


def _descended(lesson: Lesson, settings: MatrixFactorisationSettings) -> Weights:
    vector_ND = lesson.vector_ND.astype(np.float32)
    seen_NA, filled_NA = seen_and_filled(lesson.quality_NA)
    rng = np.random.default_rng(settings.seed)
    size = vector_ND.shape[1]
    share_A = (filled_NA.sum(axis=0) + 0.1) / (seen_NA.sum(axis=0) + 0.2)
    start = {
        "arm_AK": named_start(lesson.arms, settings.dimension),
        "weight_K": np.ones(settings.dimension, dtype=np.float32),
        "query_DK": (0.1 * rng.standard_normal((size, settings.dimension)) / np.sqrt(size)).astype(
            np.float32
        ),
        "bias_A": np.log(share_A / (1.0 - share_A)).astype(np.float32),
    }
    pairwise, weighted = settings.form == "pairwise", settings.labels == "scores"

    def slope_of(weights: Weights, score: Matrix, batch: IndexArray) -> NDArray[np.floating]:
        seen, wanted = seen_NA[batch], filled_NA[batch]
        if pairwise:
            return pair_slope(score, wanted, seen, weighted=weighted)
        return seen * (0.5 * (1.0 + np.tanh(0.5 * (score + weights["bias_A"]))) - wanted)

    def gradient(weights: Weights, batch: IndexArray, rng: np.random.Generator) -> Gradients:
        x = vector_ND[batch]
        if settings.noise:
            x = x + np.float32(settings.noise) * rng.standard_normal(x.shape, dtype=np.float32)
        length_A1 = np.linalg.norm(weights["arm_AK"], axis=1, keepdims=True)
        unit_AK = weights["arm_AK"] / length_A1
        inner = x @ weights["query_DK"]
        slope = slope_of(weights, (inner * weights["weight_K"]) @ unit_AK.T, batch) / len(batch)
        by_arm = (slope.T @ inner) * weights["weight_K"]
        by_inner = slope @ unit_AK
        return {
            # Only what turns an arm's vector counts: its length is fixed.
            "arm_AK": (by_arm - unit_AK * (by_arm * unit_AK).sum(axis=1, keepdims=True)) / length_A1,
            "weight_K": (by_inner * inner).sum(axis=0),
            "query_DK": x.T @ (by_inner * weights["weight_K"]),
            "bias_A": np.zeros_like(weights["bias_A"]) if pairwise else slope.sum(axis=0),
        }

    schedule = Schedule(settings.epochs, decay=settings.decay)
    return descend(start, gradient, len(vector_ND), schedule, settings.seed)


METHOD: Final = HeadMethod("matrix_factorisation", MatrixFactorisationSettings(), candidates, train, quality)
KIND: Final = head_kind(METHOD)
