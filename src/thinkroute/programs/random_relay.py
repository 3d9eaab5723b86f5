"""`random_relay`: hands over at random places, the baseline that a trained relay must beat at equal teacher share.

After every token of the student, the teacher takes over with a fixed probability, for a number of tokens drawn from a
given list (the lengths that the policy it is compared with used). No command is written. The number of student tokens
before a hand-over is geometric, so one call writes them all: the same distribution as deciding token by token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

from thinkroute.programs.effects import Generate, Program, Return
from thinkroute.types import Arm


def random_relay(
    arm: Arm, max_tokens: int | None, probability: float, lengths: Sequence[int], rng: Random
) -> Program:
    """Let the arm's first model write, and the second take over at random.

    Args:
        arm: Student and teacher, at one effort.
        max_tokens: Cap on everything generated.
        probability: Of a hand-over after each token of the student, above 0.
        lengths: Hand-over lengths to draw from.
        rng: Where the places and lengths come from.
    """
    written, turn = 0, 0
    while True:
        model = arm.models[turn % 2]
        length = rng.choice(lengths) if turn % 2 else _until_hand_over(probability, rng)
        if max_tokens is not None:
            length = min(length, max_tokens - written)
        segment = yield Generate(model, arm.effort, length)
        written += segment.usage.completion_tokens
        cut_early = segment.usage.completion_tokens < length  # by a full context window
        if segment.finish != "length" or cut_early or written == max_tokens:
            return Return(segment.finish)
        turn += 1


def probability_for(teacher_share: float, mean_length: float) -> float:
    """The probability that gives the teacher this share of the tokens: p·n of its tokens come on each of the student's.

    At most 1, a hand-over after every token of the student: hand-overs of length n give no more than n / (n + 1).
    """
    return min(1.0, teacher_share / (mean_length * (1.0 - teacher_share)))


def _until_hand_over(probability: float, rng: Random) -> int:
    """Tokens of the student up to and including the one after which the teacher takes over."""
    if probability >= 1.0:
        return 1
    return 1 + int(math.log(1.0 - rng.random()) / math.log(1.0 - probability))
