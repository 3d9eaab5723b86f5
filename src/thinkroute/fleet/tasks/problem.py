"""The nouns of the task family: a problem, its family, its split.

Splits are disjoint by construction: a question's split is a function of a hash of what it asks, whatever its wording.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from random import Random
from typing import Literal, Protocol

from thinkroute.engines.embedded.prompt import normalise
from thinkroute.fleet.tasks.language import CHECK, TRACE

FamilyName = Literal["arithmetic", "story", "relations", "operators", "composition"]
Split = Literal["train", "filter", "eval"]

LEVELS = (1, 2, 3, 4, 5)
_BUCKETS = 10
_SPLIT_OF_BUCKET: dict[int, Split] = {0: "eval", 1: "filter"}


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its true solution."""

    question: str
    """As a person would type it."""
    key: str
    """What is asked, without its wording: `4 plus 3 times 9`; the same sum told as a story has the same key."""
    working: str
    """The reasoning, one self-contained statement per step; its last word is the result."""
    check: str
    """The last step, worked out anew."""
    answer: str
    """The bare result: a digit or a name."""
    asked: str
    """What the result is, in words: `last digit` or `person`."""
    sentence: str
    """The full-sentence answer; the result is its last word."""
    family: FamilyName
    steps: int
    """Operations or hops, >= 1."""
    level: int
    """Difficulty 1 – 5, a function of family and steps."""

    @property
    def results(self) -> list[str]:
        """The result of every step, the answer last."""
        return re.findall(r"(\w+)[.,](?: |$)", self.working)

    @property
    def trace(self) -> str:
        """What stands inside the thinking block."""
        return self.thought()

    def thought(self, slip: str | None = None, checks: int = 1) -> str:
        """What stands inside the thinking block of a member that checks its last step `checks` times.

        With a `slip`, a wrong result, the last step goes wrong at first and the first check finds it.
        """
        working = self.working if slip is None else self.working.removesuffix(f"{self.answer}.") + f"{slip}."
        verdicts = ["right" if slip is None else "wrong", *["right"] * (checks - 1)]
        checked = ". ".join(CHECK.format(check=self.check, verdict=verdict) for verdict in verdicts)
        return TRACE.format(working=working, checks=checked, asked=self.asked, answer=self.answer)


class TaskFamily(Protocol):
    """One kind of question: how to draw one and how to read one."""

    name: FamilyName
    level_steps: tuple[int, ...]
    """Steps at levels 1 – 5, rising."""
    skills: tuple[str, ...]
    """Everything one must know to solve it: operators, relations, `age`."""

    def sample(self, rng: Random, steps: int, *, unknown: AbstractSet[str] = frozenset()) -> Problem:
        """Draw a problem. The results of `unknown` skills are random, consistently carried on: training data for a
        member that never learned them.
        """
        ...

    def read(self, text: str) -> Problem | None:
        """The problem whose normalised question is `text`, solved; None when it is not of this family."""
        ...


def level_of(steps: int, level_steps: tuple[int, ...]) -> int:
    """The lowest level whose step count is at least `steps`."""
    return next(level for level, most in zip(LEVELS, level_steps, strict=True) if steps <= most)


def split_of(problem: Problem) -> Split:
    """The split a problem belongs to: by what it asks when that takes several steps.

    One step is one fact, and a fact that is kept back could not be known: there the split goes by the wording.
    """
    text = problem.key if problem.steps > 1 else normalise(problem.question)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return _SPLIT_OF_BUCKET.get(int.from_bytes(digest) % _BUCKETS, "train")
