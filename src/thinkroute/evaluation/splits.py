"""Splitting a table into what a router may learn from and what it is judged on.

Rows whose texts are equal after normalisation are one group and never stand on both sides: data sets repeat their
questions, with labels that disagree now and then.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from thinkroute.errors import DataError
from thinkroute.evaluation.metrics import IntArray
from thinkroute.routers.table import OutcomeTable

SplitKind: TypeAlias = Literal["iid", "task", "source"]
SPLITS: Final[tuple[SplitKind, ...]] = ("iid", "task", "source")
"""`iid`: random groups; `task`: whole tasks are unseen; `source`: the table's own train and test."""

_NOT_WORD: Final = re.compile(r"[\W_]+")


def normalise(text: str) -> str:
    """Case, white space and punctuation folded away; a text of nothing else keeps its own spelling."""
    folded = _NOT_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
    return folded or text.strip()


def text_groups(table: OutcomeTable) -> IntArray:
    """Number of each row's group of equal normalised text, shape (Q,), counted by first appearance."""
    number: dict[str, int] = {}
    return np.array([number.setdefault(normalise(text), len(number)) for text in table.texts], dtype=np.intp)


def split(
    table: OutcomeTable, kind: SplitKind, seed: int, test_share: float = 0.3
) -> tuple[IntArray, IntArray]:
    """Row numbers to train on and to test on.

    Raises:
        DataError: the table cannot be split this way (fewer than two tasks, no source split, too few rows).
    """
    groups_Q = text_groups(table)
    if kind == "iid":
        test_Q = _random_part(groups_Q, seed, test_share)
    elif kind == "task":
        test_Q = _unseen_tasks(table, seed, test_share)
    else:
        test_Q = np.array([name == "test" for name in table.splits])
        if not any(name == "train" for name in table.splits):
            raise DataError("the table's `split` column has no 'train' rows: use --split iid")
    seen_in_test = np.isin(groups_Q, groups_Q[test_Q])
    # Rows of a tested text are not learned from, whatever side they were on.
    train, test = np.flatnonzero(~test_Q & ~seen_in_test), np.flatnonzero(test_Q)
    if not train.size or not test.size:
        raise DataError(f"split {kind!r} of {len(table)} rows leaves nothing to train or to test on")
    return train, test


def _random_part(groups_Q: IntArray, seed: int, share: float) -> NDArray[np.bool_]:
    count = int(groups_Q.max(initial=-1)) + 1
    order = np.random.default_rng(seed).permutation(count)
    return np.isin(groups_Q, order[: min(max(round(count * share), 1), count - 1)])


def _unseen_tasks(table: OutcomeTable, seed: int, share: float) -> NDArray[np.bool_]:
    tasks = sorted({task for task in table.tasks if task is not None})
    if len(tasks) < 2:
        raise DataError("split 'task' needs at least two task labels: use --split iid")
    order = np.random.default_rng(seed).permutation(len(tasks))
    count = min(max(round(len(tasks) * share), 1), len(tasks) - 1)
    held_out = [tasks[int(index)] for index in order[:count]]
    return np.array([task in held_out for task in table.tasks], dtype=np.bool_)
