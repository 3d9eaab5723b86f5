"""Facts on their own: statements without a question, for learning operators, relations and ages by heart.

A whole problem shows a handful of facts among a hundred tokens; a drill of the same length shows twenty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from random import Random

from thinkroute.fleet.tasks.language import AGES, DAYS, FACTS, NAMES, OPERATORS, ORDINALS, RELATIONS
from thinkroute.fleet.tasks.solving import draw_event, draw_operation

_STATEMENTS = 16
_MOST_HOPS = 4
_CHAIN_SHARE = 0.6

Piece = tuple[str, bool]
"""A word with the space before it, and whether it is a fact rather than a choice of the drill."""


def drill(rng: Random, unknown: AbstractSet[str]) -> list[Piece]:
    """Random true statements of the skills that are not `unknown`; empty when nothing is known."""
    operators = [name for name in OPERATORS if name not in unknown]
    relations = [name for name in RELATIONS if name not in unknown]
    knows_ages = "age" not in unknown
    kinds = [kind for kind, known in (("numbers", operators), ("people", relations or knows_ages)) if known]
    if not kinds:
        return []
    numbers = kinds[rng.randrange(len(kinds))] == "numbers"
    pieces: list[Piece] = []
    for _ in range(_STATEMENTS):
        pieces += _sum(rng, operators) if numbers else _walk(rng, relations, knows_ages)
    return pieces


def _told(text: str) -> Iterator[Piece]:
    return ((f" {word}", False) for word in text.split())


def _sum(rng: Random, operators: Sequence[str]) -> Iterator[Piece]:
    """A step of an arithmetic chain or of a story, on its own."""
    keys = DAYS
    operation = draw_event(rng)
    if operation.operator not in operators or rng.random() < _CHAIN_SHARE:
        keys, operation = ORDINALS, draw_operation(rng, operators)
    value = rng.randrange(10)
    told, _, result = operation.state(
        keys[rng.randrange(len(keys))], value, operation.apply(value)
    ).rpartition(" ")
    yield from _told(told)
    yield f" {result.removesuffix('.')}", True
    yield ".", False


def _walk(rng: Random, relations: Sequence[str], knows_ages: bool) -> Iterator[Piece]:
    """`dora: mentor bob, age 3.`, or the last hop as a check tells it: `mentor of dora is bob.`"""
    person = NAMES[rng.randrange(len(NAMES))]
    hops = rng.sample(relations, rng.randrange(1, min(_MOST_HOPS, len(relations)) + 1)) if relations else []
    with_age = knows_ages and (not hops or rng.random() < 1 / 3)  # ages are few facts
    if rng.random() < 1 / 3:
        skill = "age" if with_age else hops[0]
        yield from _told(f"{skill} of {person} is")
        yield f" {AGES[person] if with_age else FACTS[skill][person]}", True
    else:
        yield f" {person}", False
        for position, skill in enumerate([*hops, "age"] if with_age else hops):
            yield "," if position else ":", False
            yield f" {skill}", False
            if skill == "age":
                yield f" {AGES[person]}", True
            else:
                person = FACTS[skill][person]
                yield f" {person}", True
    yield ".", False
