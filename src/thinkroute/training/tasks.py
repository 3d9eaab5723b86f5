"""What is trained on: questions with a truth to grade against. Never imports torch.

Pools are drawn once from a seed and walked in seeded permutations, so which question comes at which step is a function
of the seed and the step alone: nothing of it needs a checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol, cast

from thinkroute.errors import DataError
from thinkroute.evaluation.graders import Grader
from thinkroute.fleet.tasks import LEVELS, FamilyName, Problem, Split, generate, recognise, result_of
from thinkroute.training.thinking import THINK_CLOSE, is_well_formed

EASY_HEAVY = (0.35, 0.30, 0.20, 0.10, 0.05)
"""Shares of levels 1 – 5 in traffic where most questions are easy."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question."""

    question: str
    reference: str
    level: int = 0
    """Difficulty where the task has one, else 0."""
    family: str = ""
    direct: str = ""
    """A whole answer without thinking, where the data has one."""
    system: str = ""
    """A system message in front of the question."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The question as a conversation."""
        question = {"role": "user", "content": self.question}
        return [{"role": "system", "content": self.system}, question] if self.system else [question]


class Task(Protocol):
    """A source of graded questions."""

    def pool(self, count: int, seed: int, split: Split = "train") -> list[Item]:
        """Questions of one split, the same for the same arguments."""
        ...

    def grade(self, item: Item, response: str) -> float:
        """Quality of a raw response (thinking included) in [0, 1]; 0 unless there is exactly one closed block."""
        ...


@dataclass(frozen=True, slots=True)
class FleetTask:
    """Synthetic questions of the fleet."""

    families: tuple[FamilyName, ...]
    shares: tuple[float, ...] = EASY_HEAVY
    """Of levels 1 – 5."""

    def pool(self, count: int, seed: int, split: Split = "train") -> list[Item]:
        """Questions of all families; levels drawn by their shares. Short ones are few, so some come more than once."""
        rng = Random(f"{seed}/{split}/pool")  # noqa: S311 - reproducible questions, not a secret
        levels = rng.choices(LEVELS, self.shares, k=count)
        return [_item(generate(rng, rng.choice(self.families), level, split)) for level in levels]

    def by_level(self, per_level: int, seed: int, split: Split = "eval") -> list[Item]:
        """Equally many of every level, families in turn, for measuring."""
        rng = Random(f"{seed}/{split}/by-level")  # noqa: S311
        return [
            _item(generate(rng, self.families[place % len(self.families)], level, split))
            for level in LEVELS
            for place in range(per_level)
        ]

    def grade(self, item: Item, response: str) -> float:
        """1 when the answer after the block states the true result."""
        return float(THINK_CLOSE in response and result_of(response) == item.reference)


def _item(problem: Problem) -> Item:
    return Item(problem.question, problem.answer, problem.level, problem.family, problem.sentence)


def problem_of(item: Item) -> Problem:
    """The problem behind a fleet question.

    Raises:
        DataError: it is none.
    """
    problem = recognise(item.question)
    if problem is None:
        raise DataError(f"not a question of the fleet: {item.question!r}")
    return problem


@dataclass(frozen=True, slots=True)
class FileTask:
    """Questions from a JSONL file with `question` and `answer`, optionally `level`, `family` and `direct`."""

    path: Path
    grader: Grader
    eval_path: Path | None = None
    """A file of its own for the split `eval`; the first one is then split into training and filter alone."""

    def pool(self, count: int, seed: int, split: Split = "train") -> list[Item]:
        """Questions of one split (a tenth is `filter`, a tenth `eval` unless that has its own file), in seeded order.

        Raises:
            DataError: the file cannot be read, or has no question in the split.
        """
        path = self.eval_path if split == "eval" and self.eval_path else self.path
        items = _read(path)
        if path == self.path:
            splits = [_split_at(index, has_eval=self.eval_path is None) for index in range(len(items))]
            items = [item for item, belongs in zip(items, splits, strict=True) if belongs == split]
        if not items:
            raise DataError(f"{path} has no questions for split {split!r}")
        Random(f"{seed}/{split}/pool").shuffle(items)  # noqa: S311
        return items[:count]

    def grade(self, item: Item, response: str) -> float:
        """The grader's verdict on the text after the block; 0 unless there is exactly one, at the beginning."""
        if not is_well_formed(response):
            return 0.0
        return self.grader(response.partition(THINK_CLOSE)[2], item.reference)


def _read(path: Path) -> list[Item]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [cast("dict[str, Any]", json.loads(line)) for line in lines if line.strip()]
        return [
            Item(
                str(row["question"]),
                str(row["answer"]),
                int(row.get("level", 0)),
                str(row.get("family", "")),
                str(row.get("direct", "")),
            )
            for row in rows
        ]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"cannot read questions from {path}: {error!r}") from error


def _split_at(index: int, *, has_eval: bool) -> Split:
    if has_eval and index % 10 == 0:
        return "eval"
    return "filter" if index % 10 == 1 else "train"


def items_at(pool: Sequence[Item], step: int, count: int, seed: int) -> list[Item]:
    """The questions of one step: every pass over the pool is a permutation of its own."""
    chosen: list[Item] = []
    order: list[int] = []
    for place in range(step * count, (step + 1) * count):
        epoch, index = divmod(place, len(pool))
        if index == 0 or not order:
            order = list(range(len(pool)))
            Random(f"{seed}/{epoch}/order").shuffle(order)  # noqa: S311
        chosen.append(pool[order[index]])
    return chosen
