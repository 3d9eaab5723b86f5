"""Families about people: multi-hop relations over a fixed base of facts, and compositions that go on with numbers.

Relations are drawn without replacement, so that each hop's relation is its unique key.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from random import Random

from thinkroute.fleet.tasks.language import (
    ASK_WORDS,
    ASKED_DIGIT,
    COMMON_OPERATORS,
    NAMES,
    ORDINALS,
    PERSON_SENTENCE,
    RELATIONS,
    START_WORDS,
    WHO_WORDS,
)
from thinkroute.fleet.tasks.problem import FamilyName, Problem, level_of
from thinkroute.fleet.tasks.solving import (
    ASKING,
    NO_GAPS,
    Gaps,
    Operation,
    age_of,
    alternatives,
    calculate,
    digit_problem,
    draw_operation,
    key_of,
    operations_pattern,
    phrase,
    read_operations,
    sentence_case,
    tell_operations,
    walk,
)

_HOPS = rf"((?:the (?:{alternatives(RELATIONS)}) of )*)({alternatives(NAMES)})"
_MOST_HOPS_BEFORE_NUMBERS = 3


def _read_hops(text: str) -> list[str] | None:
    """Relations in the order they are walked, the reverse of how they are told; None when one comes twice."""
    relations = re.findall(r"the (\w+) of", text)[::-1]
    return relations if len(set(relations)) == len(relations) else None


def _tell_hops(relations: Sequence[str]) -> str:
    return "".join(f"the {relation} of " for relation in reversed(relations))


class Relations:
    """`Who is the tutor of the neighbor of the mentor of Dora?`"""

    name: FamilyName = "relations"
    level_steps: tuple[int, ...] = (1, 2, 3, 4, 5)
    skills: tuple[str, ...] = RELATIONS
    _pattern = re.compile(rf"({alternatives(WHO_WORDS)}) {_HOPS}")

    def sample(self, rng: Random, steps: int, *, unknown: AbstractSet[str] = frozenset()) -> Problem:
        """Draw a problem of `steps` different relations."""
        opening, person = phrase(rng, WHO_WORDS), NAMES[rng.randrange(len(NAMES))]
        return self._problem(opening, person, rng.sample(RELATIONS, steps), Gaps(unknown, rng))

    def read(self, text: str) -> Problem | None:
        """Parse a normalised question."""
        match = self._pattern.fullmatch(text)
        relations = _read_hops(match[2]) if match else None
        if not match or not relations or len(relations) > self.level_steps[-1]:
            return None
        return self._problem(match[1], match[3], relations, NO_GAPS)

    def _problem(self, opening: str, person: str, relations: Sequence[str], gaps: Gaps) -> Problem:
        way = walk(person, relations, gaps)
        question = sentence_case(f"{opening} {_tell_hops(relations)}{person}", NAMES)
        return Problem(
            question=question + ("?" if opening.startswith("who") else "."),
            key=" ".join([person, *relations]),
            working=f"{person}: {', '.join(way.told)}.",
            check=way.restated,
            answer=way.reached,
            asked="person",
            sentence=PERSON_SENTENCE.format(answer=way.reached),
            family=self.name,
            steps=len(relations),
            level=level_of(len(relations), self.level_steps),
        )


class Composition:
    """`Take the age of the boss of Dora. First plus 3. What is the last digit?`

    Typed: people → a person → a number → a number. Hops, the age and operations count as steps.
    """

    name: FamilyName = "composition"
    level_steps: tuple[int, ...] = (1, 2, 3, 4, 6)
    skills: tuple[str, ...] = (*RELATIONS, "age", *COMMON_OPERATORS)
    _pattern = re.compile(
        rf"({alternatives(START_WORDS)}) the age of {_HOPS}\."
        rf"{operations_pattern(COMMON_OPERATORS)} ({ASKING})"
    )

    def sample(self, rng: Random, steps: int, *, unknown: AbstractSet[str] = frozenset()) -> Problem:
        """Draw a problem; hops and operations share the steps at random, at most three hops."""
        opening, person = phrase(rng, START_WORDS), NAMES[rng.randrange(len(NAMES))]
        hops = rng.randrange(min(steps - 1, _MOST_HOPS_BEFORE_NUMBERS) + 1)
        relations = rng.sample(RELATIONS, hops)
        operations = [draw_operation(rng, COMMON_OPERATORS) for _ in range(steps - 1 - hops)]
        asking = f"{phrase(rng, ASK_WORDS)} {ASKED_DIGIT}"
        return self._problem(opening, person, relations, operations, asking, Gaps(unknown, rng))

    def read(self, text: str) -> Problem | None:
        """Parse a normalised question."""
        match = self._pattern.fullmatch(text)
        if not match:
            return None
        relations, operations = _read_hops(match[2]), read_operations(match[4])
        if relations is None or operations is None or len(relations) > _MOST_HOPS_BEFORE_NUMBERS:
            return None
        if 1 + len(relations) + len(operations) > self.level_steps[-1]:
            return None
        return self._problem(match[1], match[3], relations, operations, match[5], NO_GAPS)

    def _problem(
        self,
        opening: str,
        person: str,
        relations: Sequence[str],
        operations: Sequence[Operation],
        asking: str,
        gaps: Gaps,
    ) -> Problem:
        way = walk(person, relations, gaps)
        age = age_of(way.reached, gaps)
        statements, value = calculate(age, operations, ORDINALS, gaps)
        told = f"{person}: {', '.join([*way.told, f'age {age}'])}."
        question = f"{opening} the age of {_tell_hops(relations)}{person}."
        return digit_problem(
            " ".join(part for part in (question, tell_operations(operations), asking) if part),
            key_of(" ".join([person, *relations, "age"]), operations),
            [told, *statements],
            statements[-1] if statements else f"age of {way.reached} is {age}.",
            value,
            family=self.name,
            steps=1 + len(relations) + len(operations),
            level_steps=self.level_steps,
        )
