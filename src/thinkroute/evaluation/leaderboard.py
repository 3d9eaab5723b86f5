"""Evaluate routers on an outcome table: fit on one part, slide the value dial on the other, beside the baselines.

Owns the protocol. For every seed the table is split (`splits`), every router is fitted on the training part and
replayed on the tested part at every value of the dial (`frontier`). The tested rows of all seeds are pooled, so every
metric is one number over all of them; intervals resample queries, not rows, because a query may be tested under
several seeds. Baselines are chosen on the training part, except those labelled hindsight:
best single arm (train), best single arm (hindsight), task lookup (train; where tasks exist), the hull of single
arms (RouterBench's "zero router", hindsight), a random mix at the router's own arm shares, and the oracle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from thinkroute.errors import DataError
from thinkroute.evaluation import metrics
from thinkroute.evaluation.frontier import costs_of, dial, predicted_costs, replay, sweep
from thinkroute.evaluation.metrics import Hull, IntArray
from thinkroute.evaluation.scores import ArmScoreRow, Baselines, Leaderboard, Point, RouterScore
from thinkroute.evaluation.splits import SplitKind, split
from thinkroute.routers.base import TableRouter
from thinkroute.routers.registry import DEFAULT_ENCODER, fit_router, router_kind
from thinkroute.routers.table import FloatArray, OutcomeTable
from thinkroute.signals import fit_encoder
from thinkroute.signals.base import Scalar

_TIMED_QUERIES: Final = 200
_PAIR_POINTS: Final = 1001


@dataclass(frozen=True)
class Protocol:
    """What is compared, and how."""

    routers: tuple[str, ...]
    split: SplitKind = "iid"
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    test_share: float = 0.3
    resamples: int = 1000
    parameters: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])
    """Settings for every router compared; give some only when comparing one router."""
    encoder: str = DEFAULT_ENCODER
    encoder_parameters: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])


@dataclass
class _Pool:
    """Tested rows of all seeds so far, for one router."""

    choice: list[IntArray] = field(default_factory=list[IntArray])
    quality: list[FloatArray] = field(default_factory=list[FloatArray])
    cost: list[FloatArray] = field(default_factory=list[FloatArray])
    predicted: list[FloatArray] = field(default_factory=list[FloatArray])
    fit_s: list[float] = field(default_factory=list[float])
    predict_us: list[float] = field(default_factory=list[float])


@dataclass(frozen=True)
class _Tested:
    """What all seeds tested, rows pooled (R), and the arms that training chose."""

    table: OutcomeTable
    """The tested rows; a query tested twice stands twice."""
    group_R: IntArray
    """Number of each row's query."""
    cost_RA: FloatArray
    best_R: IntArray
    """Best single arm by the training part of the row's seed."""
    lookup_R: IntArray | None
    """Best arm of the row's task by the training part, None where no row has a task."""


def evaluate(
    table: OutcomeTable, protocol: Protocol, *, name: str, progress: Callable[[str], None] | None = None
) -> Leaderboard:
    """Fit and judge routers on one table.

    Args:
        table: Outcomes. Queries without a measured cell, and arms without one, are left out.
        protocol: Routers, split and seeds.
        name: Name of the table in the report.
        progress: Called with a line before each fit.

    Raises:
        DataError: the table cannot be split as asked, or has fewer than two arms.
    """
    table = _usable(table)
    costs = costs_of(table)
    cost_QA = np.zeros_like(table.quality_QA) if costs is None else costs.cost_QA
    values_V = dial(cost_QA)
    pools = {router: _Pool() for router in protocol.routers}
    folds: list[tuple[IntArray, IntArray]] = []
    for seed in protocol.seeds:
        train, test = split(table, protocol.split, seed, protocol.test_share)
        folds.append((train, test))
        learned = table.take(train)
        encoder = None
        if any(router_kind(router).reads_text for router in protocol.routers):
            encoder = fit_encoder(protocol.encoder, learned.texts, protocol.encoder_parameters)
        for router, pool in pools.items():
            if progress:
                progress(f"{name}: seed {seed}: {router}")
            start = time.perf_counter()
            fitted = fit_router(router, learned, parameters=protocol.parameters, encoder=encoder)
            pool.fit_s.append(time.perf_counter() - start)
            _replay_into(pool, fitted, table.take(test), cost_QA[test], values_V, costs is None)
    tested = _pooled(table, cost_QA, folds)
    weight_BR = metrics.resample(tested.group_R, protocol.resamples, seed=0)
    judge = _Judge(tested, values_V, weight_BR, has_costs=costs is not None)
    return Leaderboard(
        table=name,
        data_hash=table.digest(),
        notes=dict(table.notes),
        queries=len(table),
        tested_rows=len(tested.table),
        missing_share=float(np.isnan(tested.table.quality_QA).mean()),
        split=protocol.split,
        seeds=protocol.seeds,
        cost_unit=None if costs is None else costs.unit,
        cost_low=judge.low,
        cost_high=judge.high,
        arms=judge.arm_rows(),
        baselines=judge.baselines(),
        routers=[judge.score(router, pool) for router, pool in pools.items()],
    )


def _usable(table: OutcomeTable) -> OutcomeTable:
    graded_QA = ~np.isnan(table.quality_QA)
    arms = [table.arms[int(arm)] for arm in np.flatnonzero(graded_QA.sum(axis=0))]
    if len(arms) < 2:
        raise DataError(f"evaluation needs at least two arms with outcomes, the table has {len(arms)}")
    return table.take(np.flatnonzero(graded_QA.sum(axis=1))).select_arms(arms)


def _replay_into(
    pool: _Pool,
    router: TableRouter,
    tested: OutcomeTable,
    cost_QA: FloatArray,
    values_V: FloatArray,
    free: bool,
) -> None:
    queries = tested.queries()
    predictions = router.predict_batch(queries, tested.arms)
    unit = "usd" if "cost_usd" in predictions.moments else "tokens"
    quality_QA = predictions.quality.mean_QA
    predicted_QA = np.zeros_like(quality_QA) if free else predicted_costs(predictions, unit)
    choice_VQ = sweep(quality_QA, predicted_QA, values_V, ~np.isnan(tested.quality_QA))
    outcome = replay(choice_VQ, tested.quality_QA, cost_QA)
    pool.choice.append(choice_VQ)
    pool.quality.append(outcome.quality_VQ)
    pool.cost.append(outcome.cost_VQ)
    pool.predicted.append(quality_QA)
    pool.predict_us.append(_predict_us(router, tested))


def _predict_us(router: TableRouter, tested: OutcomeTable) -> float:
    """Median microseconds of one prediction for all arms."""
    spent: list[float] = []
    for query in tested.queries()[:_TIMED_QUERIES]:
        start = time.perf_counter()
        router.predict(query, tested.arms)
        spent.append(time.perf_counter() - start)
    return float(np.median(spent) * 1e6)


def _pooled(table: OutcomeTable, cost_QA: FloatArray, folds: Sequence[tuple[IntArray, IntArray]]) -> _Tested:
    rows = np.concatenate([test for _, test in folds])
    _, group_R = np.unique(rows, return_inverse=True)
    best = [np.full(len(test), _best_arm(table, cost_QA, train)) for train, test in folds]
    lookup = [_task_lookup(table, cost_QA, train, test) for train, test in folds]
    renamed = [f"{table.query_ids[row]}@{place}" for place, row in enumerate(rows)]
    return _Tested(
        table=_repeat(table, rows, renamed),
        group_R=group_R.astype(np.intp),
        cost_RA=cost_QA[rows],
        best_R=np.concatenate(best),
        lookup_R=np.concatenate(lookup) if any(task is not None for task in table.tasks) else None,
    )


def _repeat(table: OutcomeTable, rows: IntArray, ids: Sequence[str]) -> OutcomeTable:
    pick = [int(row) for row in rows]
    return OutcomeTable(
        query_ids=tuple(ids),
        texts=tuple(table.texts[row] for row in pick),
        arms=table.arms,
        measured={m: matrix[rows] for m, matrix in table.measured.items()},
        tasks=tuple(table.tasks[row] for row in pick),
        finish_QA=None if table.finish_QA is None else table.finish_QA[rows],
    )


def _best_arm(table: OutcomeTable, cost_QA: FloatArray, rows: IntArray) -> int:
    """Arm of best mean quality over these rows; ties go to the cheaper."""
    quality_A = _column_means(table.quality_QA[rows])
    cost_A = _column_means(cost_QA[rows])
    return int(np.lexsort((cost_A, -np.nan_to_num(quality_A, nan=-1.0)))[0])


def _task_lookup(table: OutcomeTable, cost_QA: FloatArray, train: IntArray, test: IntArray) -> IntArray:
    """Best arm of each tested row's task on the training rows; unseen tasks get the best arm overall."""
    overall = _best_arm(table, cost_QA, train)
    of_task = {
        task: _best_arm(table, cost_QA, train[[table.tasks[int(row)] == task for row in train]])
        for task in {table.tasks[int(row)] for row in train}
    }
    return np.array([of_task.get(table.tasks[int(row)], overall) for row in test], dtype=np.intp)


def _column_means(matrix_QA: FloatArray) -> FloatArray:
    seen_A = (~np.isnan(matrix_QA)).sum(axis=0)
    return np.where(seen_A > 0, np.nansum(matrix_QA, axis=0) / np.maximum(seen_A, 1), np.nan)


class _Judge:
    """Metrics of one evaluation: everything that needs the pooled rows."""

    def __init__(
        self, tested: _Tested, values_V: FloatArray, weight_BR: FloatArray, *, has_costs: bool
    ) -> None:
        self._tested, self._values_V, self._weight_BR, self._has_costs = (
            tested,
            values_V,
            weight_BR,
            has_costs,
        )
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

    def arm_rows(self) -> list[ArmScoreRow]:
        """Every arm alone, on the tested rows."""
        pairs = zip(self._tested.table.arms, self._mean_quality_A, self._mean_cost_A, strict=True)
        return [ArmScoreRow(arm, float(q), self._cost(float(c))) for arm, q, c in pairs]

    def baselines(self) -> Baselines:
        """The lines every router is read against."""
        tested = self._tested
        hindsight = int(np.lexsort((self._mean_cost_A, -self._mean_quality_A))[0])
        oracle_R = metrics.oracle(self._quality_RA, self._cost_RA if self._has_costs else None)
        return Baselines(
            best_single=self._point(tested.best_R),
            best_single_arms=[tested.table.arms[int(arm)] for arm in np.unique(tested.best_R)],
            best_single_hindsight=Point(
                float(self._mean_quality_A[hindsight]), self._cost(float(self._mean_cost_A[hindsight]))
            ),
            best_single_hindsight_arm=tested.table.arms[hindsight],
            task_lookup=None if tested.lookup_R is None else self._point(tested.lookup_R),
            oracle=self._point(oracle_R),
            random=Point(float(self._mean_quality_A.mean()), self._cost(float(self._mean_cost_A.mean()))),
            zero_router_aiq=metrics.aiq(self._singles, self.low, self.high) if self._has_costs else None,
            zero_router_cost_share=self._share(self._singles),
            truncation_rate=self._truncation(tested.best_R),
        )

    def score(self, router: str, pool: _Pool) -> RouterScore:
        """All metrics of one router."""
        quality_VR, cost_VR = np.concatenate(pool.quality, axis=1), np.concatenate(pool.cost, axis=1)
        choice_VR = np.concatenate(pool.choice, axis=1)
        top_R, top_cost_R, choice_R = quality_VR[-1], cost_VR[-1], choice_VR[-1]
        points = metrics.hull(cost_VR.mean(axis=1), quality_VR.mean(axis=1))
        shares_A = metrics.arm_shares(choice_R, len(self._tested.table.arms))
        against = metrics.paired_interval(top_R, self._best_quality_R, self._weight_BR)
        pair = self._pair(pool)
        per_seed = np.split(top_R, np.cumsum([q.shape[1] for q in pool.quality])[:-1])
        costs = self._has_costs
        return RouterScore(
            router=router,
            quality=float(top_R.mean()),
            quality_by_seed=[float(seed.mean()) for seed in per_seed],
            cost=self._cost(float(top_cost_R.mean())),
            gain_over_best_single=against,
            aiq=self._aiq(points, quality_VR, cost_VR) if costs else None,
            aiq_gain_over_zero_router=self._aiq_gain(quality_VR, cost_VR) if costs else None,
            cost_share=self._share(points),
            random_at_equal_cost=self._singles.quality_at(float(top_cost_R.mean())) if costs else None,
            random_at_equal_rates=float(shares_A @ self._mean_quality_A),
            arm_shares={arm: float(s) for arm, s in zip(self._tested.table.arms, shares_A, strict=True)},
            entropy_bits=metrics.entropy_bits(shares_A),
            truncation_rate=self._truncation(choice_R),
            apgr=None if pair is None else metrics.apgr(pair),
            apgr_ten_point=None if pair is None else metrics.apgr_ten_point(pair),
            cpt50=None if pair is None else metrics.cpt(pair, 0.5),
            cpt80=None if pair is None else metrics.cpt(pair, 0.8),
            frontier=[
                Point(float(q), float(c))
                for q, c in zip(quality_VR.mean(axis=1), cost_VR.mean(axis=1), strict=True)
            ]
            if costs
            else [],
            fit_s=float(np.mean(pool.fit_s)),
            predict_us=float(np.median(pool.predict_us)),
        )

    def _aiq(self, points: Hull, quality_VR: FloatArray, cost_VR: FloatArray) -> metrics.Interval:
        samples = [
            metrics.aiq(metrics.hull(c, q), self.low, self.high)
            for c, q in self._resampled(quality_VR, cost_VR)
        ]
        return metrics.interval(metrics.aiq(points, self.low, self.high), np.array(samples))

    def _aiq_gain(self, quality_VR: FloatArray, cost_VR: FloatArray) -> metrics.Interval:
        """Against the hull of the single arms on the same resampled queries."""
        singles = self._resampled(self._single_quality_RA.T, self._single_cost_RA.T)
        differences = [
            metrics.aiq(metrics.hull(c, q), self.low, self.high)
            - metrics.aiq(metrics.hull(c0, q0), self.low, self.high)
            for (c, q), (c0, q0) in zip(self._resampled(quality_VR, cost_VR), singles, strict=True)
        ]
        points = metrics.hull(cost_VR.mean(axis=1), quality_VR.mean(axis=1))
        mean = metrics.aiq(points, self.low, self.high) - metrics.aiq(self._singles, self.low, self.high)
        return metrics.interval(mean, np.array(differences))

    def _resampled(self, quality_VR: FloatArray, cost_VR: FloatArray) -> list[tuple[FloatArray, FloatArray]]:
        quality_BV, cost_BV = self._weight_BR @ quality_VR.T, self._weight_BR @ cost_VR.T
        return list(zip(cost_BV, quality_BV, strict=True))

    def _pair(self, pool: _Pool) -> FloatArray | None:
        """PGR curve between the arms of a two-arm table, averaged over seeds; None for other tables.

        Only rows with both cells take part. Margins of different seeds come from different fits and are not
        compared with one another.
        """
        if self._quality_RA.shape[1] != 2:
            return None
        strong = int(np.argmax(self._mean_quality_A))
        share = np.linspace(0.0, 1.0, _PAIR_POINTS)
        curves: list[FloatArray] = []
        start = 0
        for quality_QA in pool.predicted:
            truth_QA = self._quality_RA[start : start + len(quality_QA)]
            start += len(quality_QA)
            both_Q = np.flatnonzero(~np.isnan(truth_QA.sum(axis=1)))
            margin_Q = quality_QA[both_Q, strong] - quality_QA[both_Q, 1 - strong]
            curve = metrics.pgr_curve(margin_Q, truth_QA[both_Q, 1 - strong], truth_QA[both_Q, strong])
            curves.append(np.interp(share, np.linspace(0.0, 1.0, len(curve)), curve))
        return np.asarray(np.stack(curves).mean(axis=0), dtype=np.float64)

    def _share(self, points: Hull) -> float | None:
        if not self._has_costs:
            return None
        return metrics.cost_share(points, float(self._best_quality_R.mean()), float(self._best_cost_R.mean()))

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
