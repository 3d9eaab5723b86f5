"""RelayLLM's warm-up data: the student's own answers with commands put in at random.

It teaches what a command looks like and that text goes on after one, nothing about where calling is worth it: the text
after a command is still the student's own, so the tokens that a teacher would have written there get no loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from thinkroute.programs.direct import direct
from thinkroute.programs.relay import CALL
from thinkroute.training.rollout import Attempt, roll_out
from thinkroute.training.samplers import Sampler
from thinkroute.training.tasks import Item
from thinkroute.training.trajectory import Span, Trajectory
from thinkroute.types import Arm

PAPER_LENGTHS = tuple(digit * 10**power for power in range(4) for digit in range(1, 10))
"""n = d · 10^k, d in 1 – 9, k in 0 – 3."""
_ITEMS_PER_ROUND = 256


@dataclass(frozen=True, slots=True)
class Insertion:
    """How commands are put in."""

    lengths: tuple[int, ...] = PAPER_LENGTHS
    """What n is drawn from; clipped to the tokens that remain."""
    per_position: float = 0.0
    """Probability of a command in front of every token that is not the teacher's."""
    most: int = 3
    """Where `per_position` is 0: up to so many commands at uniformly drawn places."""
    clean_share: float = 0.25
    """Answers without any command, so that not calling is learned as well."""
    skipped: int = 2
    """Tokens at the beginning that stay the student's: what opens the thinking block."""


def planned(length: int, insertion: Insertion, rng: Random) -> list[tuple[int, int]]:
    """Places and lengths of the hand-overs in an answer of `length` tokens: ascending, none inside another."""
    if rng.random() < insertion.clean_share:
        return []
    places = range(insertion.skipped, length)
    if not insertion.per_position:
        count = min(rng.randint(0, insertion.most), len(places))
        chosen = set(rng.sample(places, count))
    else:
        chosen = {place for place in places if rng.random() < insertion.per_position}
    plan: list[tuple[int, int]] = []
    free = 0
    for place in sorted(chosen):
        if place >= free:
            tokens = min(rng.choice(insertion.lengths), length - place)
            plan.append((place, tokens))
            free = place + tokens
    return plan


def with_commands(
    ids: Sequence[int], plan: Sequence[tuple[int, int]], sampler: Sampler, teacher: str
) -> tuple[Span, ...]:
    """An answer with commands, as spans: what follows a command is the teacher's for as long as it says."""
    spans: list[Span] = []
    begin = 0
    for place, tokens in plan:
        command = sampler.encode(f"{CALL.open_tag}{tokens}{CALL.close_tag}")
        spans.append(Span((*ids[begin:place], *command), sampler.model))
        spans.append(Span(tuple(ids[place : place + tokens]), teacher))
        begin = place + tokens
    if begin < len(ids):
        spans.append(Span(tuple(ids[begin:]), sampler.model))
    return tuple(spans)


@dataclass(frozen=True, slots=True)
class WarmUp:
    """The data builder."""

    arm: Arm
    insertion: Insertion = Insertion()
    temperature: float = 0.3
    samples: int = 1
    """Answers per question."""
    most_tokens: int | None = None

    def build(self, items: Sequence[Item], sampler: Sampler, seed: int) -> Iterator[Trajectory]:
        """The student's answers, right or wrong, with commands put in."""
        rng = Random(f"{seed}/relay")  # noqa: S311 - reproducible data
        for start in range(0, len(items), _ITEMS_PER_ROUND):
            attempts = [
                Attempt(
                    item.messages,
                    direct(sampler.model, self.arm.effort, self.most_tokens),
                    None,
                    {"temperature": self.temperature, "seed": rng.getrandbits(40)},
                )
                for item in items[start : start + _ITEMS_PER_ROUND]
                for _ in range(self.samples)
            ]
            for answer in roll_out(attempts, sampler):
                ids = answer.response_ids
                plan = planned(len(ids), self.insertion, rng)
                spans = with_commands(ids, plan, sampler, self.arm.models[1])
                yield Trajectory(answer.prompt_ids, spans, answer.text, answer.finish)
