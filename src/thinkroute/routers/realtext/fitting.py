"""Learning the prior's numbers from outcomes of public models: abilities, one slope, and two lines through the abilities.

Owns the arithmetic. Difficulties must be predictions for texts the signal heads had not seen, or the slope is that of
memory. For models m and texts q, P(right) = sigmoid(ability_m − slope · shift_q) by penalised likelihood (a Rasch
model with known item difficulty); then ability over doublings by least squares, with a slope that cannot be negative.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from thinkroute.errors import DataError
from thinkroute.routers.realtext.law import Line
from thinkroute.routers.table import FloatArray
from thinkroute.signals.calibration import sigmoid

_STEPS: Final = 40
_PENALTY: Final = 0.01
_LEAST_STD: Final = 0.3


@dataclass(frozen=True)
class Answers:
    """Graded answers of one model."""

    shift_Q: FloatArray
    """Difficulty of each text, in logits from typical."""
    right_Q: FloatArray
    """Grade in [0, 1]."""


def abilities(answers: Mapping[str, Answers]) -> tuple[dict[str, float], float]:
    """Ability of each model, and the slope they share. Every model counts the same, however many texts it answered.

    Raises:
        DataError: no answers.
    """
    if not answers or any(not len(found.right_Q) for found in answers.values()):
        raise DataError("a prior needs graded answers of every model it learns from")
    count = len(answers)
    design = np.concatenate([_rows(place, count, found) for place, found in enumerate(answers.values())])
    right = np.concatenate([found.right_Q for found in answers.values()])
    weight = np.concatenate([np.full(len(f.right_Q), 1000.0 / len(f.right_Q)) for f in answers.values()])
    found = np.zeros(count + 1)
    for _ in range(_STEPS):
        chance = sigmoid(design @ found)
        curve = (design.T * (weight * chance * (1 - chance))) @ design + _PENALTY * np.eye(count + 1)
        step = np.linalg.solve(curve, design.T @ (weight * (right - chance)) - _PENALTY * found)
        found = found + step
        if float(np.abs(step).max()) < 1e-9:
            break
    return dict(zip(answers, found[:-1].tolist(), strict=True)), float(found[-1])


def line(doublings: Mapping[str, float], ability: Mapping[str, float]) -> Line:
    """Least squares of ability on doublings over the models whose doublings are known.

    Raises:
        DataError: fewer than three models.
    """
    if len(doublings) < 3:
        raise DataError("a line through abilities needs three models of known size or price")
    x = np.array(list(doublings.values()))
    y = np.array([ability[name] for name in doublings])
    slope = max(float(((x - x.mean()) * (y - y.mean())).sum() / max(((x - x.mean()) ** 2).sum(), 1e-9)), 0.0)
    start = float(y.mean() - slope * x.mean())
    spread = float(np.sqrt(((y - start - slope * x) ** 2).sum() / (len(x) - 2)))
    return Line(round(start, 4), round(slope, 4), round(max(spread, _LEAST_STD), 4))


def opening(doublings: Mapping[str, float], slope: Mapping[str, float]) -> tuple[float, float]:
    """Slope at the reference, and by how much each doubling lowers it: least squares, never below 0.

    Raises:
        DataError: fewer than three models.
    """
    found = line(doublings, {name: -value for name, value in slope.items()})
    return -found.at_reference, found.per_doubling


def _rows(place: int, count: int, found: Answers) -> FloatArray:
    rows = np.zeros((len(found.right_Q), count + 1))
    rows[:, place] = 1.0
    rows[:, -1] = -found.shift_Q
    return rows
