"""One fold of an evaluation: what is learned, what is tested, and how a fitted router decides there.

Owns taking the rows, letting routers decide on them, and the arms that the training part alone would choose. It fits
nothing and computes no metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from thinkroute.evaluation.frontier import choose_many, costs_of, predicted_costs, sweep
from thinkroute.evaluation.judge import Replays, Tested
from thinkroute.evaluation.metrics import IntArray
from thinkroute.evaluation.splits import Fold, without_arm
from thinkroute.evaluation.timing import time_decisions
from thinkroute.evaluation.truncation import cut_mask, reading_everything
from thinkroute.routers.base import Predictions, TableRouter
from thinkroute.routers.table import FloatArray, OutcomeTable
from thinkroute.types import Query


@dataclass(frozen=True)
class Bench:
    """One fold, ready to fit and test on."""

    fold: Fold
    learned: OutcomeTable
    tested: OutcomeTable
    price_A: FloatArray
    """Mean cost per arm on the training part: stands in where a router knows no cost, e.g. of a new arm."""
    values_V: FloatArray
    has_costs: bool


def bench_of(
    table: OutcomeTable, fold: Fold, cost_QA: FloatArray | None, values_V: FloatArray, shots: int
) -> Bench:
    """Take a fold's rows out of a table, and hide the outcomes of a new arm but for `shots` of them.

    Args:
        table: Every row.
        fold: Which to learn from and to test.
        cost_QA: Measured costs; None for tables without any.
        values_V: The dial.
        shots: Outcomes of a new arm that the fit may see.
    """
    learned = table.take(fold.train)
    if fold.new_arm is not None:
        learned = without_arm(learned, fold.new_arm, shots, fold.seed)
    return Bench(
        fold=fold,
        learned=learned,
        tested=table.take(fold.test),
        price_A=np.zeros(len(table.arms)) if cost_QA is None else _column_means(cost_QA[fold.train]),
        values_V=values_V,
        has_costs=cost_QA is not None,
    )


def replay_into(replays: Replays, router: TableRouter, bench: Bench, fit_s: float) -> None:
    """Let a fitted router decide on the tested rows, and add what it did to `replays`."""
    tested = bench.tested
    queries = tested.queries()
    quality_QA, choice_VQ = _decide(router, queries, bench)
    # Everything that can fail comes first, so that no router is half in.
    timing = time_decisions(router, queries, tested.arms)
    cut = cut_mask(router, tested.texts)
    if cut is not None:
        reading, cut_Q = cut
        replays.limit_bytes = reading.limit_bytes
        replays.cut.append(cut_Q)
        patient = reading_everything(router)
        if patient is not None:
            changed_Q = np.zeros(len(queries), dtype=np.bool_)
            changed_Q[cut_Q] = _top_choice(patient, bench, cut_Q) != choice_VQ[-1][cut_Q]
            replays.changed.append(changed_Q)
    replays.choice.append(choice_VQ.astype(np.int16))
    replays.predicted.append(quality_QA)
    replays.fit_s.append(fit_s)
    replays.timing.append(timing)


def _decide(router: TableRouter, queries: Sequence[Query], bench: Bench) -> tuple[FloatArray, IntArray]:
    """Predicted quality (Q, A) and the choices at every value of the dial (V, Q)."""
    predictions = router.predict_batch(queries, bench.tested.arms)
    quality_QA = predictions.quality.mean_QA
    allowed_QA = ~np.isnan(bench.tested.quality_QA)
    return quality_QA, sweep(quality_QA, _costs(predictions, bench), bench.values_V, allowed_QA)


def _top_choice(router: TableRouter, bench: Bench, rows_Q: NDArray[np.bool_]) -> IntArray:
    """Choices for some rows where quality alone counts."""
    some = replace(bench, tested=bench.tested.take(rows_Q))
    if not len(some.tested):
        return np.empty(0, dtype=np.intp)
    predictions = router.predict_batch(some.tested.queries(), some.tested.arms)
    allowed_QA = ~np.isnan(some.tested.quality_QA)
    return choose_many(predictions.quality.mean_QA, _costs(predictions, some), np.inf, allowed_QA)


def _costs(predictions: Predictions, bench: Bench) -> FloatArray:
    """Predicted costs, the arm's mean in training where none is predicted."""
    if not bench.has_costs:
        return np.zeros_like(predictions.quality.mean_QA)
    unit = "usd" if "cost_usd" in predictions.moments else "tokens"
    cost_QA = predicted_costs(predictions, unit)
    return np.where(np.isnan(cost_QA), bench.price_A, cost_QA)


def pooled(
    table: OutcomeTable,
    cost_QA: FloatArray,
    benches: Sequence[Bench],
    leaked: Sequence[NDArray[np.bool_]],
) -> Tested:
    """The tested rows of all folds one below the other, with what training chose for each."""
    rows = np.concatenate([bench.fold.test for bench in benches])
    _, group_R = np.unique(rows, return_inverse=True)
    best = [np.full(len(bench.tested), _best_arm(bench.learned)) for bench in benches]
    lookup = [_task_lookup(bench) for bench in benches]
    new = [
        np.full(
            len(bench.tested),
            -1 if bench.fold.new_arm is None else table.arms.index(bench.fold.new_arm),
        )
        for bench in benches
    ]
    return Tested(
        table=_repeat(table, rows),
        group_R=group_R.astype(np.intp),
        cost_RA=cost_QA[rows],
        best_R=np.concatenate(best),
        lookup_R=np.concatenate(lookup) if any(task is not None for task in table.tasks) else None,
        leaked_R=np.concatenate(leaked),
        new_arm_R=np.concatenate(new),
    )


def _repeat(table: OutcomeTable, rows: IntArray) -> OutcomeTable:
    """These rows, some of them several times, under names of their own."""
    pick = [int(row) for row in rows]
    return OutcomeTable(
        query_ids=tuple(f"{table.query_ids[row]}@{place}" for place, row in enumerate(pick)),
        texts=tuple(table.texts[row] for row in pick),
        arms=table.arms,
        measured={m: matrix[rows] for m, matrix in table.measured.items()},
        tasks=tuple(table.tasks[row] for row in pick),
        finish_QA=None if table.finish_QA is None else table.finish_QA[rows],
    )


def _best_arm(table: OutcomeTable) -> int:
    """Arm of best mean quality; ties go to the cheaper."""
    quality_A = _column_means(table.quality_QA)
    costs = costs_of(table)
    cost_A = np.zeros(len(table.arms)) if costs is None else _column_means(costs.cost_QA)
    return int(np.lexsort((cost_A, -np.nan_to_num(quality_A, nan=-1.0)))[0])


def _task_lookup(bench: Bench) -> IntArray:
    """Best arm of each tested row's task on the training rows; unseen tasks get the best arm overall."""
    learned = bench.learned
    overall = _best_arm(learned)
    of_task = {
        task: _best_arm(learned.take(np.array([other == task for other in learned.tasks])))
        for task in set(learned.tasks)
    }
    return np.array([of_task.get(task, overall) for task in bench.tested.tasks], dtype=np.intp)


def _column_means(matrix_QA: FloatArray) -> FloatArray:
    seen_A = (~np.isnan(matrix_QA)).sum(axis=0)
    return np.where(seen_A > 0, np.nansum(matrix_QA, axis=0) / np.maximum(seen_A, 1), np.nan)
