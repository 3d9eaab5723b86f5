"""Scores that only order arms, and how they become qualities. Shared by ranking and pairwise preference losses.

A pair (a, b) of one query with y_a > y_b is a preference of weight y_a − y_b (or 1, as papers have it); the loss is
Bradley–Terry's −log σ(s_a − s_b). Such scores have neither level nor unit. `place_scores` fits both:
quality_a(x) = v(x) + o_a + f·(s_a(x) − s̄(x)), with v a ridge regression of the query's mean quality, f ≥ 0 one
factor, o_a an offset per arm.
Shape letters: N training queries, Q queries asked, D coordinates, A arms.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from thinkroute.routers.table import FloatArray
from thinkroute.signals.base import Matrix


def pair_slope(
    score_NA: NDArray[np.floating], quality_NA: Matrix, seen_NA: Matrix, *, weighted: bool = True
) -> Matrix:
    """Gradient of the pairwise loss by score, shape (N, A); ties and missing cells give none.

    The loss of a query is divided by its number of pairs' worth of arms, so that queries count alike.
    """
    ahead_NAA = quality_NA[:, :, None] - quality_NA[:, None, :]
    ahead_NAA *= seen_NA[:, :, None] * seen_NA[:, None, :]
    weight_NAA = np.maximum(ahead_NAA, 0.0) if weighted else (ahead_NAA > 0).astype(np.float32)
    margin_NAA = score_NA[:, :, None] - score_NA[:, None, :]
    pull_NAA = weight_NAA * (0.5 - 0.5 * np.tanh(0.5 * margin_NAA))
    slope_NA = pull_NAA.sum(axis=1) - pull_NAA.sum(axis=2)
    return (slope_NA / max(score_NA.shape[1] - 1, 1)).astype(np.float32)


def place_scores(
    vector_ND: FloatArray, quality_NA: FloatArray, score_NA: FloatArray, penalty: float
) -> dict[str, FloatArray]:
    """What turns scores into qualities; `placed` applies it."""
    seen_NA = ~np.isnan(quality_NA)
    count_A = np.maximum(seen_NA.sum(axis=0), 1)
    mean_A = np.nansum(quality_NA, axis=0) / count_A
    # The level is that of deviations: which arms were measured on a query says nothing of how hard it is.
    deviation_NA = np.where(seen_NA, quality_NA - mean_A, 0.0)
    level_N = deviation_NA.sum(axis=1) / seen_NA.sum(axis=1)
    gram_DD = vector_ND.T @ vector_ND + penalty * np.eye(vector_ND.shape[1])
    level_D = np.asarray(np.linalg.solve(gram_DD, vector_ND.T @ level_N), dtype=np.float64)
    spread_NA = score_NA - score_NA.mean(axis=1, keepdims=True)
    centre_A = np.where(seen_NA, spread_NA, 0.0).sum(axis=0) / count_A
    moved_NA = np.where(seen_NA, spread_NA - centre_A, 0.0)
    wanted_NA = np.where(seen_NA, deviation_NA - (vector_ND @ level_D)[:, None], 0.0)
    size = float((moved_NA**2).sum())
    factor = max(float((moved_NA * wanted_NA).sum()) / size, 0.0) if size > 0 else 0.0
    return {"level_D": level_D, "factor": np.array(factor), "centre_A": centre_A, "offset_A": mean_A}


def placed(arrays: Mapping[str, FloatArray], vector_QD: FloatArray, score_QA: FloatArray) -> FloatArray:
    """Quality of every arm, shape (Q, A)."""
    spread_QA = score_QA - score_QA.mean(axis=1, keepdims=True)
    level_Q = vector_QD @ arrays["level_D"]
    return arrays["offset_A"] + level_Q[:, None] + arrays["factor"] * (spread_QA - arrays["centre_A"])
