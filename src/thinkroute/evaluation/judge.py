"""Metrics of one evaluation: tested rows of all folds pooled, every router's choices on them in, scores out.

Owns every number that needs the pooled rows. Shape letters: V settings of the dial, R pooled tested rows, A arms,
B resamples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from thinkroute.evaluation import metrics
from thinkroute.evaluation.arena import arena
from thinkroute.evaluation.calibration import Cells, calibration
from thinkroute.evaluation.equal_cost import ResampledHulls, against_single
from thinkroute.evaluation.metrics import Hull, IntArray, Interval
from thinkroute.evaluation.pair import pair_curve
from thinkroute.evaluation.scores import (
    ArenaScore,
    ArmScoreRow,
    Baselines,
    Calibration,
    CutAudit,
    Point,
    RouterScore,
)
from thinkroute.evaluation.timing import Timing
from thinkroute.routers.table import FloatArray, OutcomeTable


@dataclass(frozen=True)
class Tested:
    """What all folds tested, rows pooled, and the arms that training chose."""

    table: OutcomeTable
    """The tested rows; a query tested twice stands twice."""
    group_R: IntArray
    """Number of each row's query."""
    cost_RA: FloatArray
    best_R: IntArray
    """Best single arm by the training part of the row's fold."""
    lookup_R: IntArray | None
    """Best arm of the row's task by the training part, None where no row has a task."""
    leaked_R: NDArray[np.bool_]
    """Rows that resemble a learned one."""
    new_arm_R: IntArray
    """Arm that was new in the row's fold, -1 where none was."""


@dataclass
class Replays:
    """One router's choices and predictions, a list entry per fold."""

    choice: list[NDArray[np.int16]] = field(default_factory=list[NDArray[np.int16]])
    """(V, rows of the fold)."""
    predicted: list[FloatArray] = field(default_factory=list[FloatArray])
    """Predicted quality (rows of the fold, A)."""
    cut: list[NDArray[np.bool_]] = field(default_factory=list[NDArray[np.bool_]])
    """Which rows the encoder cut; empty when it does not say."""
    changed: list[NDArray[np.bool_]] = field(default_factory=list[NDArray[np.bool_]])
    """Which rows are decided otherwise when everything is read; empty when that cannot be told."""
    limit_bytes: int = 0
    fit_s: list[float] = field(default_factory=list[float])
    timing: list[Timing] = field(default_factory=list[Timing])


class Judge:
    """Scores routers and baselines on the same rows and the same resamples."""

    def __init__(self, tested: Tested, resamples: int, *, has_costs: bool, in_dollars: bool) -> None:
        self._tested, self._has_costs, self._in_dollars = tested, has_costs, in_dollars
        self._weight_BR = metrics.resample(tested.group_R, resamples, seed=0)
        self._quality_RA, self._cost_RA = tested.table.quality_QA, tested.cost_RA
        rows, arms = self._quality_RA.shape
        every = [np.full(rows, arm, dtype=np.intp) for arm in range(arms)]
        self._single_quality_RA = np.stack([self._taken(self._quality_RA, arm) for arm in every], axis=1)
        self._single_cost_RA = np.stack([self._taken(self._cost_RA, arm) for arm in every], axis=1)
        self._mean_quality_A = self._single_quality_RA.mean(axis=0)
        self._mean_cost_A = self._single_cost_RA.mean(axis=0)
        self._singles = metrics.hull(self._mean_cost_A, self._mean_quality_A)
        self.low, self.high = float(self._mean_cost_A.min()), float(self._mean_cost_A.max())
        self._best_quality_R = self._taken(self._quality_RA, tested.best_R)
        self._best_cost_R = self._taken(self._cost_RA, tested.best_R)
        self._oracle_R = metrics.oracle(self._quality_RA, self._cost_RA if has_costs else None)

    @property
    def missing_share(self) -> float:
        """Share of the tested cells without a grade."""
        return float(np.isnan(self._quality_RA).mean())

    def arm_rows(self) -> list[ArmScoreRow]:
        """Every arm alone, on the tested rows."""
        pairs = zip(self._tested.table.arms, self._mean_quality_A, self._mean_cost_A, strict=True)
        return [ArmScoreRow(arm, float(q), self._cost(float(c))) for arm, q, c in pairs]

    def baselines(self) -> Baselines:
        """The lines every router is read against."""
        tested = self._tested
        hindsight = int(np.lexsort((self._mean_cost_A, -self._mean_quality_A))[0])
        return Baselines(
            best_single=self._point(tested.best_R),
            best_single_arms=[tested.table.arms[int(arm)] for arm in np.unique(tested.best_R)],
            best_single_hindsight=Point(
                float(self._mean_quality_A[hindsight]), self._cost(float(self._mean_cost_A[hindsight]))
            ),
            best_single_hindsight_arm=tested.table.arms[hindsight],
            task_lookup=None if tested.lookup_R is None else self._point(tested.lookup_R),
            oracle=self._point(self._oracle_R),
            random=Point(float(self._mean_quality_A.mean()), self._cost(float(self._mean_cost_A.mean()))),
            zero_router_aiq=metrics.aiq(self._singles, self.low, self.high) if self._has_costs else None,
            zero_router_cost_share=self._share(self._singles),
            truncation_rate=self._truncation(tested.best_R),
            oracle_new_arm_share=self._new_arm_share(self._oracle_R),
        )

    def score(self, router: str, replays: Replays, prompt_length: Replays | None) -> RouterScore:
        """All metrics of one router.

        Args:
            router: Its name.
            replays: What it predicted and chose.
            prompt_length: The same of the prompt-length baseline; None when it is that baseline.
        """
        choice_VR = np.concatenate(replays.choice, axis=1).astype(np.intp)
        quality_VR, cost_VR = self._replayed(choice_VR)
        top_R, top_cost, choice_R = quality_VR[-1], float(cost_VR[-1].mean()), choice_VR[-1]
        shares_A = metrics.arm_shares(choice_R, len(self._tested.table.arms))
        pair = pair_curve(self._quality_RA, replays.predicted, self._weight_BR)
        ends = np.cumsum([len(predicted) for predicted in replays.predicted])[:-1]
        length_R = None if prompt_length is None else self._top_quality(prompt_length)
        lookup_R = self._tested.lookup_R
        hulls = ResampledHulls(quality_VR, cost_VR, self._weight_BR) if self._has_costs else None
        return RouterScore(
            router=router,
            quality=float(top_R.mean()),
            quality_by_fold=[float(part.mean()) for part in np.split(top_R, ends)],
            cost=self._cost(top_cost),
            gain_over_best_single=self._gain(top_R, self._best_quality_R),
            gain_over_equal_rates=self._gain(top_R, self._single_quality_RA @ shares_A),
            gain_over_prompt_length=None if length_R is None else self._gain(top_R, length_R),
            gain_over_task_lookup=(
                None if lookup_R is None else self._gain(top_R, self._taken(self._quality_RA, lookup_R))
            ),
            gain_without_leaks=self._gain_where(top_R, ~self._tested.leaked_R),
            aiq=None if hulls is None else metrics.interval(*hulls.aiq(self.low, self.high)),
            aiq_gain_over_zero_router=None if hulls is None else self._aiq_gain(hulls),
            cost_share=None if hulls is None else self._share(hulls.whole),
            equal_cost=(
                None
                if hulls is None
                else against_single(hulls, self._best_quality_R, self._best_cost_R, self._weight_BR)
            ),
            random_at_equal_cost=self._singles.quality_at(top_cost) if self._has_costs else None,
            random_at_equal_rates=float(shares_A @ self._mean_quality_A),
            arm_shares={arm: float(s) for arm, s in zip(self._tested.table.arms, shares_A, strict=True)},
            entropy_bits=metrics.entropy_bits(shares_A),
            calibration=self._calibration(replays, choice_R),
            arena=self._arena(choice_VR),
            cut=self._cut(replays, top_R),
            truncation_rate=self._truncation(choice_R),
            apgr=None if pair is None else pair.apgr,
            apgr_interval=None if pair is None else pair.interval,
            apgr_ten_point=None if pair is None else metrics.apgr_ten_point(pair.curve),
            cpt50=None if pair is None else metrics.cpt(pair.curve, 0.5),
            cpt80=None if pair is None else metrics.cpt(pair.curve, 0.8),
            new_arm_share=self._new_arm_share(choice_R),
            frontier=self._frontier(quality_VR, cost_VR),
            fit_s=float(np.mean(replays.fit_s)),
            predict_us=float(np.median([timing.predict_us for timing in replays.timing])),
            decide_us=float(np.median([timing.decide_us for timing in replays.timing])),
            quality_by_task=self._by_task(top_R),
        )

    def _by_task(self, quality_R: FloatArray) -> dict[str, float]:
        rows: dict[str, list[int]] = {}
        for row, task in enumerate(self._tested.table.tasks):
            if task is not None:
                rows.setdefault(task, []).append(row)
        return {task: float(quality_R[rows[task]].mean()) for task in sorted(rows)}

    def _replayed(self, choice_VR: IntArray) -> tuple[FloatArray, FloatArray]:
        rows = np.arange(choice_VR.shape[1], dtype=np.intp)
        return self._quality_RA[rows, choice_VR], self._cost_RA[rows, choice_VR]

    def _top_quality(self, replays: Replays) -> FloatArray:
        choice_R = np.concatenate([choice[-1] for choice in replays.choice]).astype(np.intp)
        return self._quality_RA[np.arange(len(choice_R)), choice_R]

    def _gain(self, quality_R: FloatArray, baseline_R: FloatArray) -> Interval:
        return metrics.paired_interval(quality_R, baseline_R, self._weight_BR)

    def _gain_where(self, quality_R: FloatArray, where_R: NDArray[np.bool_]) -> Interval | None:
        """Over the best single arm on some rows; None when these are all rows or none."""
        if where_R.all() or not where_R.any():
            return None
        weight_BR = self._weight_BR[:, where_R]
        weight_BR = weight_BR / np.maximum(weight_BR.sum(axis=1, keepdims=True), 1e-12)
        return metrics.paired_interval(quality_R[where_R], self._best_quality_R[where_R], weight_BR)

    @cached_property
    def _singles_aiq(self) -> tuple[float, FloatArray]:
        hulls = ResampledHulls(self._single_quality_RA.T, self._single_cost_RA.T, self._weight_BR)
        return hulls.aiq(self.low, self.high)

    def _aiq_gain(self, hulls: ResampledHulls) -> Interval:
        """Against the hull of the single arms on the same resampled queries."""
        mean, sample_B = hulls.aiq(self.low, self.high)
        singles, singles_B = self._singles_aiq
        return metrics.interval(mean - singles, sample_B - singles_B)

    def _calibration(self, replays: Replays, choice_R: IntArray) -> Calibration:
        predicted_RA, truth_RA = np.concatenate(replays.predicted), self._quality_RA
        seen_RA = ~np.isnan(truth_RA)
        rows = np.arange(len(choice_R), dtype=np.intp)
        return calibration(
            Cells(predicted_RA[seen_RA], truth_RA[seen_RA]),
            Cells(predicted_RA[rows, choice_R], truth_RA[rows, choice_R]),
        )

    def _arena(self, choice_VR: IntArray) -> ArenaScore | None:
        if not self._in_dollars:
            return None
        return arena(choice_VR, self._quality_RA, self._cost_RA, self._oracle_R)

    def _cut(self, replays: Replays, top_R: FloatArray) -> CutAudit | None:
        if not replays.cut:
            return None
        cut_R = np.concatenate(replays.cut)
        some = bool(cut_R.any())
        changed_R = np.concatenate(replays.changed) if replays.changed else None
        return CutAudit(
            share=float(cut_R.mean()),
            limit_bytes=replays.limit_bytes,
            quality=float(top_R[cut_R].mean()) if some else None,
            gain_over_best_single=self._gain_where(top_R, cut_R),
            changed_share=None if changed_R is None or not some else float(changed_R[cut_R].mean()),
        )

    def _frontier(self, quality_VR: FloatArray, cost_VR: FloatArray) -> list[Point]:
        if not self._has_costs:
            return []
        pairs = zip(quality_VR.mean(axis=1), cost_VR.mean(axis=1), strict=True)
        return [Point(float(quality), float(cost)) for quality, cost in pairs]

    def _share(self, points: Hull) -> float | None:
        if not self._has_costs:
            return None
        return metrics.cost_share(points, float(self._best_quality_R.mean()), float(self._best_cost_R.mean()))

    def _new_arm_share(self, choice_R: IntArray) -> float | None:
        new_arm_R = self._tested.new_arm_R
        return float((choice_R == new_arm_R).mean()) if (new_arm_R >= 0).all() else None

    def _point(self, choice_R: IntArray) -> Point:
        quality_R = self._taken(self._quality_RA, choice_R)
        return Point(float(quality_R.mean()), self._cost(float(self._taken(self._cost_RA, choice_R).mean())))

    def _taken(self, matrix_RA: FloatArray, choice_R: IntArray) -> FloatArray:
        """Cells of the choices; one that was not measured gives way to the row's cheapest measured arm."""
        seen_RA = ~np.isnan(self._quality_RA)
        rows = np.arange(len(choice_R), dtype=np.intp)
        measured_R = seen_RA[rows, choice_R]
        cheapest_R = np.where(seen_RA, self._cost_RA, np.inf).argmin(axis=1)
        return matrix_RA[rows, np.where(measured_R, choice_R, cheapest_R)]

    def _truncation(self, choice_R: IntArray) -> float | None:
        finish_RA: NDArray[np.str_] | None = self._tested.table.finish_QA
        if finish_RA is None:
            return None
        return metrics.truncation_rate(finish_RA[np.arange(len(choice_R)), choice_R])

    def _cost(self, cost: float) -> float | None:
        return cost if self._has_costs else None
