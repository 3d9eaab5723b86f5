"""A small network with one output per arm, and a ranking loss for it.

One hidden layer of GELU-like units (x·σ(1.7x)), one linear output per arm for the deviation from the arm's average;
`members` networks from different starts are averaged. Output weights start at 0, so training starts at the averages.

`loss="squared"` regresses scores (RouterBench's and RouterEval's MLP, which train one network per model; LLMRouter's
classifies the arg-max model, which cost it 13 to 17 points, so it is not offered).
`loss="ranking"` is EquiRouter's idea (arXiv 2602.03478): learn the order of arms on a query instead of their scores,
Σ over pairs with y_a > y_b of (y_a − y_b)·log(1 + exp(s_b − s_a)). Deviation: pairs weigh as much as their scores
differ. Scores are then brought back to the scale of quality: per arm an offset and for all arms one factor, by least squares,
around the query's average quality as a ridge regression predicts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from thinkroute.errors import ConfigError
from thinkroute.routers.clusters import IndexArray
from thinkroute.routers.gradient import Gradients, Schedule, Weights, descend, seen_and_filled
from thinkroute.routers.heads import Arrays, HeadMethod, Lesson, head_kind
from thinkroute.routers.relative import pair_slope, place_scores, placed
from thinkroute.routers.table import FloatArray
from thinkroute.signals.base import Matrix

LOSSES: Final = ("squared", "ranking")
_PENALTY: Final = 1000.0


@dataclass(frozen=True)
class MlpSettings:
    """Settings."""

    hidden: int = 64
    """Units of the hidden layer."""
    members: int = 3
    """Networks averaged."""
    epochs: int = 40
    """Passes over the training queries."""
    decay: float = 0.1
    """Decoupled weight decay."""
    loss: str = "squared"
    """`squared` (scores) or `ranking` (order of arms)."""
    seed: int = 0
    """Of starts and batches."""


def candidates(settings: MlpSettings) -> Sequence[MlpSettings]:
    """The settings themselves, checked."""
    if settings.loss not in LOSSES:
        raise ConfigError(f"router mlp: loss={settings.loss!r} must be one of {', '.join(LOSSES)}")
    if min(settings.hidden, settings.members, settings.epochs) < 1 or settings.decay < 0:
        raise ConfigError("router mlp: hidden, members and epochs are at least 1, decay at least 0")
    return [settings]


def train(lesson: Lesson, settings: MlpSettings) -> dict[str, FloatArray]:
    """Train all members."""
    vector_ND = lesson.vector_ND.astype(np.float32)
    with np.errstate(invalid="ignore"):
        mean_A = np.nanmean(lesson.quality_NA, axis=0)
    ranking = settings.loss == "ranking"
    target_NA = lesson.quality_NA if ranking else lesson.quality_NA - mean_A
    nets = [
        _member(vector_ND, target_NA, settings, settings.seed * 1000 + place)
        for place in range(settings.members)
    ]
    arrays = {name: np.stack([net[name] for net in nets]).astype(np.float64) for name in nets[0]}
    if not ranking:
        return {**arrays, "offset_A": mean_A}
    score_NA = _outputs(arrays, lesson.vector_ND)
    return {**arrays, **place_scores(lesson.vector_ND, lesson.quality_NA, score_NA, _PENALTY)}


def quality(arrays: Arrays, vector_QD: FloatArray) -> FloatArray:
    """Mean of the members' outputs on the scale of quality."""
    output_QA = _outputs(arrays, vector_QD)
    if "level_D" in arrays:
        return placed(arrays, vector_QD, output_QA)
    return arrays["offset_A"] + output_QA


def _member(vector_ND: Matrix, target_NA: FloatArray, settings: MlpSettings, seed: int) -> Weights:
    rng = np.random.default_rng(seed)
    size, arms = vector_ND.shape[1], target_NA.shape[1]
    start = {
        "in_DH": (rng.standard_normal((size, settings.hidden)) / np.sqrt(size)).astype(np.float32),
        "in_H": np.zeros(settings.hidden, dtype=np.float32),
        "out_HA": np.zeros((settings.hidden, arms), dtype=np.float32),
        "out_A": np.zeros(arms, dtype=np.float32),
    }
    seen_NA, filled_NA = seen_and_filled(target_NA)
    ranking = settings.loss == "ranking"

    def gradient(weights: Weights, batch: IndexArray, rng: np.random.Generator) -> Gradients:
        x, seen, wanted = vector_ND[batch], seen_NA[batch], filled_NA[batch]
        before = x @ weights["in_DH"] + weights["in_H"]
        gate = _gate(before)
        hidden = before * gate
        output = hidden @ weights["out_HA"] + weights["out_A"]
        slope = pair_slope(output, wanted, seen) if ranking else seen * (output - wanted)
        slope /= len(batch)
        back = (slope @ weights["out_HA"].T) * (gate + _SHARPNESS * before * gate * (1.0 - gate))
        return {
            "in_DH": x.T @ back,
            "in_H": back.sum(axis=0),
            "out_HA": hidden.T @ slope,
            "out_A": slope.sum(axis=0),
        }

    schedule = Schedule(settings.epochs, step_size=2e-3, decay=settings.decay)
    return descend(start, gradient, len(vector_ND), schedule, seed)


_SHARPNESS: Final = np.float32(1.702)


def _gate(before: Matrix) -> Matrix:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * _SHARPNESS * before)), dtype=np.float32)


def _outputs(arrays: Arrays, vector_QD: FloatArray) -> FloatArray:
    """Mean output of the members, shape (Q, A)."""
    total_QA = np.zeros((len(vector_QD), arrays["out_A"].shape[1]))
    for in_DH, in_H, out_HA, out_A in zip(
        arrays["in_DH"], arrays["in_H"], arrays["out_HA"], arrays["out_A"], strict=True
    ):
        before = vector_QD @ in_DH + in_H
        total_QA += (before * 0.5 * (1.0 + np.tanh(0.851 * before))) @ out_HA + out_A
    return total_QA / len(arrays["in_DH"])


METHOD: Final = HeadMethod("mlp", MlpSettings(), candidates, train, quality)
KIND: Final = head_kind(METHOD)
