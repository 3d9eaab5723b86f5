"""HybridLLM's question, asked of every arm: is it at least as good as the strongest one on this query?

HybridLLM (arXiv 2404.14618) routes a query to the small model when r(x) = P(q_small ≥ q_large) exceeds a threshold. Its
labels, from several sampled answers of each model: `hard`, whether one drawn answer is as good as the other;
`soft`, the probability of that over draws; `shifted`, the probability of q_small ≥ q_large − t* with t* the shift that
spreads the labels most, max over t of the mean |label_i − label_j|: needed when the large model nearly always wins and
unshifted labels are all close to 0.

Here scores are shares of right answers. An answer of an arm with score p is right with probability p, so
P(q_a ≥ q_s) = 1 − p_s·(1 − p_a), and with `samples` answers each, shares of right ones are binomial and the shift compares
those. `hard` compares the scores themselves. Labels are regressed by `logistic`.

N arms: every arm is compared with the strongest one, r_a(x), the pair's rule arm by arm. Quality, which the policy needs,
is the strongest arm's own logistic estimate plus α_a + β_a·r_a(x), least squares on the measured differences with β_a ≥ 0:
with two arms a threshold on r is a price, and the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import Final

import numpy as np

from thinkroute.errors import ConfigError
from thinkroute.routers.heads import Arrays, HeadMethod, Lesson, head_kind
from thinkroute.routers.logistic import fit_logistic
from thinkroute.routers.score_calibration import sigmoid
from thinkroute.routers.table import FloatArray

LABELS: Final = ("soft", "hard", "shifted")
_PENALTIES: Final = (100.0, 300.0, 1000.0)
_SHIFTS: Final = np.linspace(0.0, 1.0, 21)


@dataclass(frozen=True)
class HybridSettings:
    """Settings."""

    labels: str = "soft"
    """`hard`, `soft` or `shifted`; the paper has all three and recommends the last for pairs far apart."""
    samples: int = 10
    """Answers per query and arm that shifted labels imagine; the paper draws 10."""
    penalty: float = 0.0
    """λ of the logistic regressions; 0 means chosen on folds left out."""


def candidates(settings: HybridSettings) -> Sequence[HybridSettings]:
    """Penalties to try."""
    if settings.labels not in LABELS:
        raise ConfigError(f"router hybrid: labels={settings.labels!r} must be one of {', '.join(LABELS)}")
    if settings.samples < 1 or settings.penalty < 0:
        raise ConfigError("router hybrid: samples is at least 1, penalty at least 0 (0: chosen)")
    return [settings] if settings.penalty else [replace(settings, penalty=penalty) for penalty in _PENALTIES]


def train(lesson: Lesson, settings: HybridSettings) -> dict[str, FloatArray]:
    """Regress every arm's label against the strongest arm, and quality on it."""
    quality_NA = lesson.quality_NA
    with np.errstate(invalid="ignore"):
        mean_A = np.nanmean(quality_NA, axis=0)
    strongest = min(range(len(mean_A)), key=lambda arm: (-mean_A[arm], lesson.arms[arm]))
    label_NA = win_labels(quality_NA, quality_NA[:, strongest], settings)
    # The strongest arm's own column holds its quality: the level the others hang on.
    label_NA[:, strongest] = quality_NA[:, strongest]
    # Never measured beside the strongest arm: no evidence either way.
    unpaired_A = np.isnan(label_NA).all(axis=0)
    label_NA[:, unpaired_A] = 0.5
    arrays = fit_logistic(lesson.vector_ND, label_NA, settings.penalty)
    win_NA = sigmoid(lesson.vector_ND @ arrays["weight_DA"] + arrays["intercept_A"])
    difference_NA = quality_NA - quality_NA[:, [strongest]]
    offset_A, factor_A = _lines(win_NA, difference_NA)
    offset_A[unpaired_A] = (mean_A - mean_A[strongest])[unpaired_A]
    offset_A[strongest] = factor_A[strongest] = 0.0
    return {**arrays, "offset_A": offset_A, "factor_A": factor_A, "strongest": np.array(float(strongest))}


def quality(arrays: Arrays, vector_QD: FloatArray) -> FloatArray:
    """Quality of every arm, shape (Q, A)."""
    win_QA = sigmoid(vector_QD @ arrays["weight_DA"] + arrays["intercept_A"])
    level_Q1 = win_QA[:, [int(arrays["strongest"])]]
    return level_Q1 + arrays["offset_A"] + arrays["factor_A"] * win_QA


def win_labels(quality_NA: FloatArray, strongest_N: FloatArray, settings: HybridSettings) -> FloatArray:
    """P(arm at least as good as the strongest one), shape (N, A), NaN where either cell is missing."""
    strongest_N1 = strongest_N[:, None]
    missing_NA = np.isnan(quality_NA) | np.isnan(strongest_N1)
    if settings.labels == "hard":
        label_NA = (quality_NA >= strongest_N1).astype(np.float64)
    elif settings.labels == "soft":
        label_NA = 1.0 - strongest_N1 * (1.0 - quality_NA)
    else:
        label_NA = np.stack(
            [_shifted(column_N, strongest_N, settings.samples) for column_N in quality_NA.T], axis=1
        )
    return np.where(missing_NA, np.nan, label_NA)


def _shifted(arm_N: FloatArray, strongest_N: FloatArray, samples: int) -> FloatArray:
    """Labels under the shift t* that spreads them most."""
    seen_N = ~np.isnan(arm_N + strongest_N)
    label_N = np.full(len(arm_N), np.nan)
    if not seen_N.any():
        return label_N
    own_NS, other_NS = (_binomial(p_N[seen_N], samples) for p_N in (arm_N, strongest_N))
    share_S = np.arange(samples + 1) / samples
    tried: list[FloatArray] = []
    for shift in _SHIFTS:
        enough_SS = (share_S[:, None] >= share_S[None, :] - shift - 1e-12).astype(np.float64)
        tried.append(((own_NS @ enough_SS) * other_NS).sum(axis=1))
    spreads = [_mean_gap(label) for label in tried]
    label_N[seen_N] = tried[int(np.argmax(spreads))]
    return label_N


def _binomial(share_N: FloatArray, samples: int) -> FloatArray:
    """Probability of every count of right answers, shape (N, samples + 1)."""
    count_S = np.arange(samples + 1)
    ways_S = np.array([comb(samples, int(count)) for count in count_S], dtype=np.float64)
    p_N1 = share_N[:, None]
    return np.asarray(ways_S * p_N1**count_S * (1.0 - p_N1) ** (samples - count_S), dtype=np.float64)


def _mean_gap(label_N: FloatArray) -> float:
    """Mean |label_i − label_j| over all pairs, from the sorted labels."""
    count = len(label_N)
    rank_N = 2.0 * np.arange(count) - count + 1.0
    return float((np.sort(label_N) * rank_N).sum() / max(count * (count - 1) / 2.0, 1.0))


def _lines(win_NA: FloatArray, difference_NA: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Least squares of measured differences on predicted wins, slopes never negative."""
    seen_NA = ~np.isnan(difference_NA)
    count_A = np.maximum(seen_NA.sum(axis=0), 1)
    x_NA, y_NA = np.where(seen_NA, win_NA, 0.0), np.nan_to_num(difference_NA)
    x_A, y_A = x_NA.sum(axis=0) / count_A, y_NA.sum(axis=0) / count_A
    spread_NA = np.where(seen_NA, win_NA - x_A, 0.0)
    variance_A = (spread_NA**2).sum(axis=0)
    factor_A = np.maximum((spread_NA * y_NA).sum(axis=0), 0.0) / np.where(variance_A > 0, variance_A, 1.0)
    return y_A - factor_A * x_A, factor_A


METHOD: Final = HeadMethod("hybrid", HybridSettings(), candidates, train, quality)
KIND: Final = head_kind(METHOD)
