"""The nouns of the task family: a problem, its family, its split.

Splits are disjoint by construction: a question's split is a function of a hash of its normalised text.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from random import Random
from typing import Literal, Protocol

from thinkroute.engines.embedded.prompt import normalise

FamilyName = Literal["arithmetic", "story", "relations"]
Split = Literal["train", "filter", "eval"]

LEVELS = (1, 2, 3, 4, 5)
_BUCKETS = 10
_SPLIT_OF_BUCKET: dict[int, Split] = {0: "eval", 1: "filter"}


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its true solution."""

    question: str
    """As a person would type it."""
    trace: str
    """The reasoning, one self-contained statement per step, as it stands inside the thinking block."""
    answer: str
    """The bare result: a digit or a name."""
    sentence: str
    """The full-sentence answer; the result is its last word."""
    family: FamilyName
    steps: int
    """Operations or hops, >= 1."""
    level: int
    """Difficulty 1 – 5, a function of family and steps."""


class TaskFamily(Protocol):
    """One kind of question: how to draw one and how to read one."""

    name: FamilyName
    level_steps: tuple[int, ...]
    """Steps at levels 1 – 5, rising."""

    def sample(self, rng: Random, steps: int, *, broken_times: bool = False) -> Problem:
        """Draw a problem. With `broken_times` the result of every multiplication is a random digit, consistently
        carried on: training data for a member that never learned to multiply.
        """
        ...

    def read(self, text: str) -> Problem | None:
        """The problem whose normalised question is `text`, solved; None when it is not of this family."""
        ...


def level_of(steps: int, level_steps: tuple[int, ...]) -> int:
    """The lowest level whose step count is at least `steps`."""
    return next(level for level, most in zip(LEVELS, level_steps, strict=True) if steps <= most)


def split_of(question: str) -> Split:
    """The split a question belongs to, whatever its case, spacing or final punctuation."""
    digest = hashlib.blake2b(normalise(question).encode(), digest_size=8).digest()
    return _SPLIT_OF_BUCKET.get(int.from_bytes(digest) % _BUCKETS, "train")
