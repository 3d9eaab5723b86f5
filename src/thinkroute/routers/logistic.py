"""One logistic regression per arm on soft labels: P(good answer) = σ(b + z·w).

Minimises Σ −y log p − (1 − y) log(1 − p) + (λ/2)|w|² per arm, y being the score itself (any value in [0, 1]), over the
queries whose cell was measured. Solved for all arms at once by the bound of Böhning (1992): the Hessian is nowhere
above ZᵀZ/4 + λI, so one factorisation serves every step and every arm. λ by the error on folds left out (`heads`,
which also calibrates). A common baseline (RouterEval's LinearR); the published ones train on the arg-max arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from thinkroute.errors import ConfigError
from thinkroute.routers.heads import Arrays, HeadMethod, Lesson, head_kind
from thinkroute.routers.score_calibration import sigmoid
from thinkroute.routers.table import FloatArray

_PENALTIES: Final = (30.0, 100.0, 300.0, 1000.0, 3000.0)
_STEPS: Final = 60


@dataclass(frozen=True)
class LogisticSettings:
    """Settings; 0 means chosen on folds left out."""

    penalty: float = 0.0
    """λ, on standardised vectors."""


def candidates(settings: LogisticSettings) -> Sequence[LogisticSettings]:
    """Penalties to try."""
    if settings.penalty < 0:
        raise ConfigError(f"router logistic: penalty={settings.penalty} cannot be negative (0: chosen)")
    return [settings] if settings.penalty else [replace(settings, penalty=penalty) for penalty in _PENALTIES]


def train(lesson: Lesson, settings: LogisticSettings) -> dict[str, FloatArray]:
    """Fit every arm."""
    return fit_logistic(lesson.vector_ND, lesson.quality_NA, settings.penalty)


def fit_logistic(vector_ND: FloatArray, label_NT: FloatArray, penalty: float) -> dict[str, FloatArray]:
    """Weights and intercepts for every target in [0, 1]; NaN labels are left out."""
    seen_NT = ~np.isnan(label_NT)
    label_NT = np.nan_to_num(label_NT)
    rows_NE = np.concatenate([vector_ND, np.ones((len(vector_ND), 1))], axis=1)
    # The intercept is free but for what keeps it finite when every label is 0 or 1.
    penalty_E = np.append(np.full(vector_ND.shape[1], penalty), 0.1)
    bound_EE = rows_NE.T @ rows_NE / 4.0 + np.diag(penalty_E)
    inverse_EE = np.asarray(np.linalg.inv(bound_EE), dtype=np.float64)
    weight_ET = np.zeros((rows_NE.shape[1], label_NT.shape[1]))
    count_T = seen_NT.sum(axis=0)
    weight_ET[-1] = _logit((label_NT.sum(axis=0) + 0.1) / (count_T + 0.2))
    momentum_ET, before_ET = weight_ET, weight_ET
    for step in range(_STEPS):
        residual_NT = np.where(seen_NT, label_NT - sigmoid(rows_NE @ momentum_ET), 0.0)
        weight_ET = momentum_ET + inverse_EE @ (rows_NE.T @ residual_NT - penalty_E[:, None] * momentum_ET)
        # Nesterov's momentum: the bound is loose where labels are rare, and plain steps would be small.
        momentum_ET = weight_ET + step / (step + 3.0) * (weight_ET - before_ET)
        before_ET = weight_ET
    return {"weight_DA": weight_ET[:-1], "intercept_A": weight_ET[-1]}


def quality(arrays: Arrays, vector_QD: FloatArray) -> FloatArray:
    """P(good answer)."""
    return sigmoid(vector_QD @ arrays["weight_DA"] + arrays["intercept_A"])


def _logit(share: FloatArray) -> FloatArray:
    return np.log(share) - np.log1p(-share)


METHOD: Final = HeadMethod("logistic", LogisticSettings(), candidates, train, quality)
KIND: Final = head_kind(METHOD)
