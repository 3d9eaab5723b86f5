"""Fitting the logistic heads, and measuring them on texts they have not seen; numpy only.

Owns: ridge-penalised logistic regression with shares as targets and unknown cells, five folds by text, Platt scaling on
the predictions for left-out texts, and the report of what those predictions are worth.

All heads are solved at once by accelerated gradient steps under Böhning's bound (1992): the curvature of a logistic
loss is at most a quarter of ZᵀZ, so one inverse serves every label and every step goes down. Landmarks are drawn from
all texts, left-out ones included: they are places, and know no label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from thinkroute.errors import DataError
from thinkroute.signals.base import Matrix
from thinkroute.signals.calibration import (
    Floats,
    ReliabilityBin,
    auroc,
    expected_calibration_error,
    platt,
    reliability,
    sigmoid,
    spearman,
)
from thinkroute.signals.heads import Features, HeadArrays, Landmarks
from thinkroute.signals.static_table import StaticTable
from thinkroute.signals.structure import ScaledStructure

FOLDS: Final = 5
PENALTY: Final = 1.0
_STEPS: Final = 150
_LANDMARKS: Final = 1024
_SMALLEST: Final = 1e-4
"""Directions of the landmarks' kernel under this share of the largest carry rounding errors only."""
_LEVERAGE_SHARE: Final = 0.999
"""Part of the training texts that count as familiar."""


@dataclass(frozen=True)
class Examples:
    """Texts with what is known of them."""

    texts: Sequence[str]
    groups: Sequence[str]
    """Texts of one group stand in one fold: a question and its own stem must not vouch for each other."""
    target_QL: Floats
    """Label or share in [0, 1], NaN where unknown."""
    weight_Q: Floats
    """How much a text counts."""
    authored_Q: NDArray[np.bool_] | None = None
    """Texts as users type them, for which an answer must hold as well as for all; None: nobody knows."""


@dataclass(frozen=True)
class HeadReport:
    """What one head is worth on texts it had not seen."""

    texts: int
    """Left-out texts with a known target."""
    mean: float
    """Mean target, weighted as in training."""
    auroc: float
    """Of telling targets above one half from the others."""
    spearman: float
    """Rank correlation with the targets."""
    ece: float
    """Expected calibration error over ten bins of equally many texts."""
    bins: tuple[ReliabilityBin, ...]


def fit_heads(examples: Examples, table: StaticTable) -> tuple[HeadArrays, list[HeadReport], Floats]:
    """Heads for every label, one report each, and the calibrated predictions for left-out texts (Q, L).

    Raises:
        DataError: a label has no known target of one of both kinds.
    """
    target_QL, weight_Q = examples.target_QL, examples.weight_Q
    if (np.nanmax(target_QL, axis=0) <= 0.5).any() or (np.nanmin(target_QL, axis=0) > 0.5).any():
        raise DataError("a signal head needs texts on both sides of one half for every label")
    structure = ScaledStructure.fit([text.encode("utf-8", "replace") for text in examples.texts])
    feature_QF = Features(table, structure).batch(examples.texts)
    landmark_MF = _landmarks(feature_QF)
    turn_MR = _whitening(landmark_MF)
    design_QD = np.concatenate([feature_QF, Landmarks(landmark_MF).batch(feature_QF) @ turn_MR], axis=1)
    logit_QL = _left_out(examples, design_QD)
    columns = zip(logit_QL.T, target_QL.T, strict=True)
    scaling_L2 = np.array([_scaling(logit_Q, target_Q, weight_Q) for logit_Q, target_Q in columns])
    probability_QL = sigmoid(logit_QL * scaling_L2[:, 0] + scaling_L2[:, 1])
    weight_DL, bias_L = solve(design_QD, target_QL, weight_Q)
    size = feature_QF.shape[1]
    weight_GL = np.concatenate([weight_DL[:size], turn_MR @ weight_DL[size:]])
    inverse_FF, limit = _familiarity(feature_QF)
    arrays = HeadArrays(
        weight_GL=(weight_GL * scaling_L2[:, 0]).astype(np.float32),
        bias_L=(bias_L * scaling_L2[:, 0] + scaling_L2[:, 1]).astype(np.float32),
        landmark_MF=landmark_MF,
        inverse_FF=inverse_FF,
        leverage_limit=np.array([limit], dtype=np.float32),
        structure_mean=structure["structure_mean"].astype(np.float32),
        structure_std=structure["structure_std"].astype(np.float32),
    )
    judged = zip(probability_QL.T, target_QL.T, strict=True)
    reports = [report(probability_Q, target_Q, weight_Q) for probability_Q, target_Q in judged]
    return arrays, reports, probability_QL


def _landmarks(feature_QF: Matrix) -> Matrix:
    """Features of a draw of the texts, rounded as they are stored."""
    chosen = np.random.default_rng(0).permutation(len(feature_QF))[:_LANDMARKS]
    return feature_QF[chosen].astype(np.float16).astype(np.float32)


def _whitening(landmark_MF: Matrix) -> Matrix:
    """K^(−1/2) of the landmarks' kernel K: in its coordinates the ridge penalty is the kernel's own."""
    value_M, turn_MM = np.linalg.eigh(Landmarks(landmark_MF).batch(landmark_MF).astype(np.float64))
    kept = value_M > _SMALLEST * value_M[-1]
    return (turn_MM[:, kept] / np.sqrt(value_M[kept])).astype(np.float32)


def _left_out(examples: Examples, feature_QF: Matrix) -> Floats:
    """Logits (Q, L) of each text from heads fitted on the other folds."""
    fold_Q = np.array([crc32(group.encode("utf-8", "replace")) % FOLDS for group in examples.groups])
    logit_QL = np.empty_like(examples.target_QL)
    for fold in range(FOLDS):
        seen = fold_Q != fold
        weight_FL, bias_L = solve(feature_QF[seen], examples.target_QL[seen], examples.weight_Q[seen])
        logit_QL[~seen] = feature_QF[~seen] @ weight_FL + bias_L
    return logit_QL


def _familiarity(feature_QF: Matrix) -> tuple[Matrix, float]:
    """What tells the leverage of a text, and up to which leverage it is familiar."""
    gram_FF = feature_QF.T.astype(np.float64) @ feature_QF + PENALTY * np.eye(feature_QF.shape[1])
    inverse_FF = np.linalg.inv(gram_FF).astype(np.float32)
    leverage_Q = ((feature_QF @ inverse_FF) * feature_QF).sum(axis=1)
    return inverse_FF, float(np.quantile(leverage_Q, _LEVERAGE_SHARE))


def solve(feature_QF: Matrix, target_QL: Floats, weight_Q: Floats) -> tuple[Matrix, NDArray[np.float32]]:
    """Slopes (F, L) and shifts (L,) of least penalised log loss. Shifts carry no penalty worth the name."""
    known_QL = ~np.isnan(target_QL)
    weight_QL = (known_QL * weight_Q[:, None]).astype(np.float32)
    wanted_QL = np.where(known_QL, target_QL, 0.0).astype(np.float32)
    design_QG = np.concatenate([feature_QF, np.ones((len(feature_QF), 1), dtype=np.float32)], axis=1)
    penalty_G = np.full(design_QG.shape[1], PENALTY)
    penalty_G[-1] = 1e-3
    bound_GG = 0.25 * (design_QG.T * weight_Q) @ design_QG + np.diag(penalty_G)
    step_GG = np.linalg.inv(bound_GG).astype(np.float32)
    found_GL = np.zeros((design_QG.shape[1], target_QL.shape[1]), dtype=np.float32)
    ahead_GL, pace = found_GL, 1.0
    for _ in range(_STEPS):
        residual_QL = weight_QL * (0.5 * (1.0 + np.tanh(0.5 * (design_QG @ ahead_GL))) - wanted_QL)
        slope_GL = design_QG.T @ residual_QL + penalty_G[:, None].astype(np.float32) * ahead_GL
        next_GL = ahead_GL - step_GG @ slope_GL
        # Nesterov's momentum, begun anew whenever it points uphill (O'Donoghue and Candès, 2015).
        uphill = float(((ahead_GL - next_GL) * (next_GL - found_GL)).sum()) > 0
        next_pace = 1.0 if uphill else (1.0 + np.sqrt(1.0 + 4.0 * pace * pace)) / 2.0
        momentum = 0.0 if uphill else (pace - 1.0) / next_pace
        ahead_GL = next_GL + np.float32(momentum) * (next_GL - found_GL)
        found_GL, pace = next_GL, next_pace
    return found_GL[:-1], found_GL[-1]


def report(probability_Q: Floats, target_Q: Floats, weight_Q: Floats) -> HeadReport:
    """What predictions for left-out texts are worth, over the texts whose target is known."""
    known = ~np.isnan(target_Q)
    probability, target, weight = probability_Q[known], target_Q[known], weight_Q[known]
    return HeadReport(
        texts=int(known.sum()),
        mean=float(np.average(target, weights=weight)),
        auroc=auroc(probability, target > 0.5),
        spearman=spearman(probability, target),
        ece=expected_calibration_error(probability, target),
        bins=tuple(reliability(probability, target)),
    )


def _scaling(logit_Q: Floats, target_Q: Floats, weight_Q: Floats) -> tuple[float, float]:
    known = ~np.isnan(target_Q)
    return platt(logit_Q[known], target_Q[known], weight_Q[known])
