"""Working out steps and telling them, shared by the families: operations on a digit, hops between people.

Every step has a key of its own (an ordinal, a weekday, a relation). That is what makes the tasks learnable by a small
model: "which step is next" is then a lookup of the key, never a count.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from random import Random

from thinkroute.fleet.tasks.language import (
    AGES,
    ASK_WORDS,
    ASKED_DIGIT,
    DIGIT_SENTENCE,
    FACTS,
    GAIN_VERBS,
    LOSS_VERBS,
    NAMES,
    OPERATORS,
    ORDINALS,
)
from thinkroute.fleet.tasks.problem import FamilyName, Problem, level_of


def alternatives(words: Sequence[Sequence[str] | str]) -> str:
    """A regular expression for any of the words or phrases."""
    return "|".join(word if isinstance(word, str) else " ".join(word) for word in words)


ASKING = rf"(?:{alternatives(ASK_WORDS)}) {ASKED_DIGIT}"
"""A regular expression for the end of a question about numbers."""


@dataclass(frozen=True, slots=True)
class Operation:
    """`operand` None means: the current value itself (doubling is adding the value to itself)."""

    operator: str
    operand: int | None
    told: str
    """As the question tells it: `plus 3`, `she gets 3`, `she doubles them`."""

    def apply(self, value: int) -> int:
        """The true result."""
        return OPERATORS[self.operator](value, value if self.operand is None else self.operand)

    @property
    def key(self) -> str:
        """The operation without its wording."""
        return f"{self.operator} {'itself' if self.operand is None else self.operand}"

    def state(self, key: str, value: int, result: int) -> str:
        """One step of a thought. It begins by repeating the instruction word for word, which a small model can do by
        looking the key up; finding key, operator and operand one by one is several times harder to learn.
        """
        return f"{key} {self.told} from {value} is {result}."


@dataclass(frozen=True, slots=True)
class Gaps:
    """What a member does not know, and where its guesses come from."""

    unknown: AbstractSet[str]
    rng: Random

    def digit(self, skill: str, true: int) -> int:
        """The true digit, or a guess where the skill is unknown."""
        return self.rng.randrange(10) if skill in self.unknown else true

    def person(self, skill: str, true: str) -> str:
        """The true person, or a guess where the skill is unknown."""
        return NAMES[self.rng.randrange(len(NAMES))] if skill in self.unknown else true


NO_GAPS = Gaps(frozenset(), Random(0))  # noqa: S311 - never drawn from


def draw_operation(rng: Random, operators: Sequence[str]) -> Operation:
    """One operation; operands are 1 – 9, and 2 – 9 for `times`."""
    operator = operators[rng.randrange(len(operators))]
    operand = rng.randrange(2 if operator == "times" else 1, 10)
    return Operation(operator, operand, f"{operator} {operand}")


def phrase(rng: Random, phrases: Sequence[Sequence[str]]) -> str:
    """One of the phrases as text."""
    return " ".join(phrases[rng.randrange(len(phrases))])


def calculate(
    start: int, operations: Sequence[Operation], keys: Sequence[str], gaps: Gaps
) -> tuple[list[str], int]:
    """One statement per operation, and the final value."""
    value, statements = start, list[str]()
    for key, operation in zip(keys, operations, strict=False):
        result = gaps.digit(operation.operator, operation.apply(value))
        statements.append(operation.state(key, value, result))
        value = result
    return statements, value


@dataclass(frozen=True, slots=True)
class Walk:
    """A way through the fact base."""

    told: list[str]
    """One `relation person` per hop."""
    restated: str
    """The last hop, told anew."""
    reached: str


def walk(person: str, relations: Sequence[str], gaps: Gaps) -> Walk:
    """Follow relations, in the order they are walked."""
    reached, told, restated = person, list[str](), ""
    for relation in relations:
        found = gaps.person(relation, FACTS[relation][reached])
        told.append(f"{relation} {found}")
        restated = f"{relation} of {reached} is {found}."
        reached = found
    return Walk(told, restated, reached)


def age_of(person: str, gaps: Gaps) -> int:
    """The last digit of a person's age."""
    return gaps.digit("age", AGES[person])


def event(verb: str, amount: str) -> Operation:
    """What happens to somebody's things in a story, as an operation."""
    told = f"she {verb} {amount}"
    if verb == "doubles":
        return Operation("plus", None, told)
    if verb == "triples":
        return Operation("times", 3, told)
    return Operation("plus" if verb in GAIN_VERBS else "minus", int(amount), told)


def draw_event(rng: Random) -> Operation:
    """A third of the events double or triple; amounts are 1 – 9."""
    kind, amount = rng.randrange(6), str(rng.randrange(1, 10))
    if kind < 4:
        return event((GAIN_VERBS if kind < 2 else LOSS_VERBS)[rng.randrange(3)], amount)
    return event("doubles" if kind == 4 else "triples", "them")


def key_of(start: str, operations: Sequence[Operation]) -> str:
    """A sum without its wording."""
    return " ".join([start, *(operation.key for operation in operations)])


def tell_operations(operations: Sequence[Operation]) -> str:
    """`first plus 3. second times 9.`"""
    return " ".join(f"{key} {operation.told}." for key, operation in zip(ORDINALS, operations, strict=False))


_OPERATION = re.compile(rf"(\w+) ({alternatives(tuple(OPERATORS))}) ([0-9])\.")


def operations_pattern(operators: Sequence[str]) -> str:
    """A regular expression for zero or more operations, each with a space before it."""
    return rf"((?: (?:{alternatives(ORDINALS)}) (?:{alternatives(operators)}) [0-9]\.)*)"


def read_operations(text: str) -> list[Operation] | None:
    """Operations told in order; None when their keys are not the ordinals in order."""
    found = _OPERATION.findall(text)
    if tuple(key for key, _, _ in found) != ORDINALS[: len(found)]:
        return None
    return [Operation(operator, int(operand), f"{operator} {operand}") for _, operator, operand in found]


def sentence_case(text: str, proper: Sequence[str] = ()) -> str:
    """Capitals at the start of sentences and in proper names."""
    text = re.sub(r"(^|[.?] )([a-z])", lambda found: found[1] + found[2].upper(), text)
    return re.sub(r"[a-z]+", lambda found: found[0].title() if found[0] in proper else found[0], text)


def digit_problem(
    question: str,
    key: str,
    working: Sequence[str],
    check: str,
    value: int,
    *,
    family: FamilyName,
    steps: int,
    level_steps: tuple[int, ...],
) -> Problem:
    """A problem whose result is a digit; `question` ends with the words that ask for it."""
    mark = "?" if question.lower().endswith(f"what is {ASKED_DIGIT}") else "."
    return Problem(
        question=sentence_case(question, NAMES) + mark,
        key=key,
        working=" ".join(working),
        check=check,
        answer=str(value),
        asked="last digit",
        sentence=DIGIT_SENTENCE.format(answer=value),
        family=family,
        steps=steps,
        level=level_of(steps, level_steps),
    )
