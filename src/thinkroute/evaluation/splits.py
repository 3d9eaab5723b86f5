"""Splitting a table into what a router may learn from and what it is judged on.

Rows whose texts are equal after normalisation are one group and never stand on both sides: data sets repeat their
questions, with labels that disagree now and then, and borrow them from one another. Tables joined by
`outcomes.concat` are split as one, so that holds across sets too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from thinkroute.errors import DataError
from thinkroute.evaluation.metrics import IntArray
from thinkroute.routers.table import OutcomeTable

SplitKind: TypeAlias = Literal["iid", "task", "each-task", "arm", "source"]
SPLITS: Final[tuple[SplitKind, ...]] = ("iid", "task", "each-task", "arm", "source")
"""`iid`: random groups; `task`: a random part of the tasks is unseen; `each-task`: every task is unseen once; `arm`:
every arm is new once, on unseen questions; `source`: the table's own train and test."""
MOST_TASK_FOLDS: Final = 12
"""With more tasks than this, `each-task` leaves groups of tasks unseen together."""


@dataclass(frozen=True)
class Fold:
    """One fit and one test."""

    name: str
    """What is special about it, for people."""
    train: IntArray
    test: IntArray
    seed: int
    new_arm: str | None = None
    """An arm whose outcomes must be hidden from the fit (`without_arm`), as if it had just been added."""


_NOT_WORD: Final = re.compile(r"[\W_]+")


def normalise(text: str) -> str:
    """Case, white space and punctuation folded away; a text of nothing else keeps its own spelling."""
    folded = _NOT_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
    return folded or text.strip()


def text_groups(table: OutcomeTable) -> IntArray:
    """Number of each row's group of equal normalised text, shape (Q,), counted by first appearance."""
    number: dict[str, int] = {}
    return np.array([number.setdefault(normalise(text), len(number)) for text in table.texts], dtype=np.intp)


def folds(
    table: OutcomeTable,
    kind: SplitKind,
    seeds: Sequence[int],
    test_share: float = 0.3,
    unseen: Sequence[str] = (),
) -> list[Fold]:
    """Every fit and test of a protocol.

    `iid` and `task` give one fold a seed, `each-task` one a task or group of tasks (grouped by the first seed), `arm`
    one an arm and seed, `source` one; `task` with `unseen` tasks named gives one, in which these are tested.

    Raises:
        DataError: the table cannot be split this way (fewer than two tasks, no source split, too few rows).
    """
    if unseen:
        return [_named_tasks(table, kind, unseen, seeds[0])]
    if kind == "source":
        return [Fold("source", *split(table, kind, seeds[0], test_share), seeds[0])]
    if kind == "each-task":
        groups = _task_groups(table, seeds[0])
        return [Fold(name, *_apart(table, test_Q, kind), seeds[0]) for name, test_Q in groups]
    parts = [(seed, *split(table, "iid" if kind == "arm" else kind, seed, test_share)) for seed in seeds]
    if kind == "arm":
        return [
            Fold(f"{arm}, seed {seed}", train, test, seed, arm)
            for arm in table.arms
            for seed, train, test in parts
        ]
    return [Fold(f"seed {seed}", train, test, seed) for seed, train, test in parts]


def split(
    table: OutcomeTable, kind: SplitKind, seed: int, test_share: float = 0.3
) -> tuple[IntArray, IntArray]:
    """Row numbers to train on and to test on, for the kinds that one seed decides: `iid`, `task` and `source`.

    Raises:
        DataError: the table cannot be split this way (fewer than two tasks, no source split, too few rows).
    """
    if kind == "iid":
        test_Q = _random_part(text_groups(table), seed, test_share)
    elif kind == "task":
        test_Q = _unseen_tasks(table, seed, test_share)
    elif kind == "source":
        test_Q = np.array([name == "test" for name in table.splits])
        if not any(name == "train" for name in table.splits):
            raise DataError("the table's `split` column has no 'train' rows: use --split iid")
    else:
        raise DataError(f"split {kind!r} has several folds: ask `folds`")
    return _apart(table, test_Q, kind)


def without_arm(table: OutcomeTable, arm: str, shots: int, seed: int) -> OutcomeTable:
    """The table as if an arm had just been added: its outcomes are missing but for `shots` random rows."""
    column = table.arms.index(arm)
    graded = np.flatnonzero(~np.isnan(table.quality_QA[:, column]))
    kept = np.random.default_rng(seed).permutation(graded)[:shots]
    hidden_Q = np.ones(len(table), dtype=np.bool_)
    hidden_Q[kept] = False
    measured = {measure: matrix_QA.copy() for measure, matrix_QA in table.measured.items()}
    for matrix_QA in measured.values():
        matrix_QA[hidden_Q, column] = np.nan
    finish_QA = None if table.finish_QA is None else table.finish_QA.copy()
    if finish_QA is not None:
        finish_QA[hidden_Q, column] = ""
    return replace(table, measured=measured, finish_QA=finish_QA)


def _apart(table: OutcomeTable, test_Q: NDArray[np.bool_], kind: SplitKind) -> tuple[IntArray, IntArray]:
    """Rows to train and to test on. Rows of a tested text are not learned from, whatever side they were on."""
    groups_Q = text_groups(table)
    seen_in_test = np.isin(groups_Q, groups_Q[test_Q])
    train, test = np.flatnonzero(~test_Q & ~seen_in_test), np.flatnonzero(test_Q)
    if not train.size or not test.size:
        raise DataError(f"split {kind!r} of {len(table)} rows leaves nothing to train or to test on")
    return train, test


def _random_part(groups_Q: IntArray, seed: int, share: float) -> NDArray[np.bool_]:
    count = int(groups_Q.max(initial=-1)) + 1
    order = np.random.default_rng(seed).permutation(count)
    return np.isin(groups_Q, order[: min(max(round(count * share), 1), count - 1)])


def _unseen_tasks(table: OutcomeTable, seed: int, share: float) -> NDArray[np.bool_]:
    tasks = _tasks(table)
    order = np.random.default_rng(seed).permutation(len(tasks))
    count = min(max(round(len(tasks) * share), 1), len(tasks) - 1)
    held_out = [tasks[int(index)] for index in order[:count]]
    return np.array([task in held_out for task in table.tasks], dtype=np.bool_)


def _named_tasks(table: OutcomeTable, kind: SplitKind, unseen: Sequence[str], seed: int) -> Fold:
    if kind != "task":
        raise DataError(f"unseen tasks can be named with split 'task' alone, not with {kind!r}")
    known = _tasks(table)
    unknown = [task for task in unseen if task not in known]
    if unknown:
        raise DataError(f"the table has no task {unknown[0]!r}: it has {', '.join(known)}")
    test_Q = np.array([task in unseen for task in table.tasks], dtype=np.bool_)
    return Fold(f"without {', '.join(unseen)}", *_apart(table, test_Q, kind), seed)


def _task_groups(table: OutcomeTable, seed: int) -> list[tuple[str, NDArray[np.bool_]]]:
    """Name and rows of each group of tasks that is left unseen together."""
    tasks = _tasks(table)
    groups = [(task,) for task in tasks]
    if len(tasks) > MOST_TASK_FOLDS:
        order = np.random.default_rng(seed).permutation(len(tasks))
        parts = np.array_split(order, MOST_TASK_FOLDS)
        groups = [tuple(sorted(tasks[int(place)] for place in part)) for part in parts]
    return [
        (f"without {', '.join(group)}", np.array([task in group for task in table.tasks])) for group in groups
    ]


def _tasks(table: OutcomeTable) -> list[str]:
    tasks = sorted({task for task in table.tasks if task is not None})
    if len(tasks) < 2:
        raise DataError("unseen tasks need at least two task labels: use --split iid")
    return tasks
