"""Judging a cascade on outcome tables whose answers carry features: what it would have answered, and spent.

Owns the replay of a fitted cascade, its frontier over the dial, and the comparison with routers that read the query
alone. Shape letters: Q queries, S stages, V settings of the dial.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thinkroute.routers.cascade.answers import COST_PARTS, Answers
from thinkroute.routers.cascade.fitted import FittedCascade
from thinkroute.routers.cascade.planner import NOBODY, STOP, Situation
from thinkroute.routers.table import FloatArray

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.intp]


@dataclass(frozen=True)
class Replayed:
    """What a cascade would have done on every query at one setting of the dial."""

    ran_QS: BoolArray
    """Which stages ran."""
    accepted_Q: IntArray
    """The stage whose answer was accepted."""
    quality_Q: FloatArray
    belief_Q: FloatArray
    """Probability the verifier gave the accepted answer."""

    def total(self, cell_QS: FloatArray) -> FloatArray:
        """What a measure comes to over all stages that ran."""
        return np.where(self.ran_QS, cell_QS, 0.0).sum(axis=1)


class Replay:
    """A cascade on a table; what is believed is worked out once, the dial is free."""

    def __init__(self, cascade: FittedCascade, answers: Answers) -> None:
        self.cascade = cascade
        samples = dict(zip(cascade.stages, cascade.samples_S, strict=True))
        self.answers = answers.of(cascade.stages).sampling(samples)
        table = self.answers.table
        read = cascade.read(table.queries())
        self.situations: list[Situation] = [cascade.situation(NOBODY, read)]
        for stage in range(len(cascade.stages)):
            self.situations.append(cascade.situation(stage + 1, read, self.answers.feature_QAF[:, stage]))

        self.belief_QS = np.stack([situation.quality_R for situation in self.situations[1:]], axis=1)
        """Belief in every stage's answer, once it is there."""

    def at(self, value_usd: float, price_M: FloatArray | None = None) -> Replayed:
        """What it would have done for answers worth this much."""
        price_M = np.array([1.0] + [0.0] * (len(COST_PARTS) - 1)) if price_M is None else price_M
        plan = self.cascade.plan(value_usd, price_M)
        queries, stages = self.answers.table.quality_QA.shape
        ran_QS = np.zeros((queries, stages), dtype=np.bool_)
        last_Q = np.full(queries, STOP, dtype=np.intp)
        for owner, situation in enumerate(self.situations):
            here_Q = np.ones(queries, dtype=np.bool_) if owner == NOBODY else last_Q == owner - 1
            next_Q = plan.next_stage(situation)
            goes_Q = here_Q & (next_Q != STOP)
            ran_QS[goes_Q, next_Q[goes_Q]] = True
            last_Q = np.where(goes_Q, next_Q, last_Q)
        # As in serving: the answer that is believed most of those in hand.
        best_Q = np.where(ran_QS, self.belief_QS, -1.0).argmax(axis=1)
        rows: IntArray = np.arange(queries, dtype=np.intp)
        quality_Q = self.answers.table.quality_QA[rows, best_Q]
        return Replayed(ran_QS, best_Q, quality_Q, self.belief_QS[rows, best_Q])
