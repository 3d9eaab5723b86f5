"""Families whose state is one digit: chained arithmetic, rare operators, short stories. All values are modulo 10."""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from random import Random

from thinkroute.fleet.tasks.language import (
    ASK_WORDS,
    ASKED_DIGIT,
    COMMON_OPERATORS,
    DAYS,
    GAIN_VERBS,
    LOSS_VERBS,
    NAMES,
    OBJECTS,
    ORDINALS,
    RARE_OPERATORS,
    START_WORDS,
)
from thinkroute.fleet.tasks.problem import FamilyName, Problem
from thinkroute.fleet.tasks.solving import (
    ASKING,
    NO_GAPS,
    Gaps,
    Operation,
    alternatives,
    calculate,
    digit_problem,
    draw_event,
    draw_operation,
    event,
    key_of,
    operations_pattern,
    phrase,
    read_operations,
    sentence_case,
    tell_operations,
)

LEVEL_STEPS: tuple[int, ...] = (1, 2, 3, 4, 6)


class _Chain:
    """Operations one after the other: `Start with 4. First plus 3. Second times 9. What is the last digit?`"""

    level_steps: tuple[int, ...] = LEVEL_STEPS

    def __init__(self, name: FamilyName, operators: tuple[str, ...], required: tuple[str, ...]) -> None:
        self.name: FamilyName = name
        self.skills = operators
        self._required = required
        self._pattern = re.compile(
            rf"({alternatives(START_WORDS)}) ([0-9])\.{operations_pattern(operators)} ({ASKING})"
        )

    def sample(self, rng: Random, steps: int, *, unknown: AbstractSet[str] = frozenset()) -> Problem:
        """Draw a problem; at least one operator is one of the family's own."""
        start, opening, asking = rng.randrange(10), phrase(rng, START_WORDS), phrase(rng, ASK_WORDS)
        operations = [draw_operation(rng, self.skills) for _ in range(steps)]
        if not self._has_own(operations):
            operations[rng.randrange(steps)] = draw_operation(rng, self._required)
        return self._problem(opening, start, operations, f"{asking} {ASKED_DIGIT}", Gaps(unknown, rng))

    def read(self, text: str) -> Problem | None:
        """Parse a normalised question."""
        match = self._pattern.fullmatch(text)
        if not match:
            return None
        operations = read_operations(match[3])
        if not operations or not self._has_own(operations):
            return None
        return self._problem(match[1], int(match[2]), operations, match[4], NO_GAPS)

    def _has_own(self, operations: Sequence[Operation]) -> bool:
        return any(operation.operator in self._required for operation in operations)

    def _problem(
        self, opening: str, start: int, operations: Sequence[Operation], asking: str, gaps: Gaps
    ) -> Problem:
        statements, value = calculate(start, operations, ORDINALS, gaps)
        return digit_problem(
            f"{opening} {start}. {tell_operations(operations)} {asking}",
            key_of(str(start), operations),
            statements,
            statements[-1],
            value,
            family=self.name,
            steps=len(operations),
            level_steps=self.level_steps,
        )


class Arithmetic(_Chain):
    """Chained `plus`, `minus`, `times`."""

    def __init__(self) -> None:
        super().__init__("arithmetic", COMMON_OPERATORS, COMMON_OPERATORS)


class Operators(_Chain):
    """Chains with at least one rare operator, `gap` or `star`, among `plus` and `minus`."""

    def __init__(self) -> None:
        super().__init__("operators", ("plus", "minus", *RARE_OPERATORS), RARE_OPERATORS)


class Story:
    """`Dora has 2 coins. On Monday she gets 5. On Tuesday she doubles them. What is the last digit?`"""

    name: FamilyName = "story"
    level_steps: tuple[int, ...] = LEVEL_STEPS
    skills: tuple[str, ...] = COMMON_OPERATORS
    _pattern = re.compile(
        rf"({alternatives(NAMES)}) has ([0-9]) ({alternatives(OBJECTS)})\."
        rf"((?: on (?:{alternatives(DAYS)}) she "
        rf"(?:(?:{alternatives((*GAIN_VERBS, *LOSS_VERBS))}) [0-9]|(?:doubles|triples) them)\.)+) ({ASKING})"
    )
    _event = re.compile(r"on (\w+) she (\w+) (\w+)\.")

    def sample(self, rng: Random, steps: int, *, unknown: AbstractSet[str] = frozenset()) -> Problem:
        """Draw a problem of `steps` events."""
        opening = f"{NAMES[rng.randrange(len(NAMES))]} has {rng.randrange(10)} {OBJECTS[rng.randrange(4)]}"
        events = [draw_event(rng) for _ in range(steps)]
        asking = f"{phrase(rng, ASK_WORDS)} {ASKED_DIGIT}"
        return self._problem(opening, events, asking, Gaps(unknown, rng))

    def read(self, text: str) -> Problem | None:
        """Parse a normalised question."""
        match = self._pattern.fullmatch(text)
        if not match:
            return None
        found = self._event.findall(match[4])
        if tuple(day for day, _, _ in found) != DAYS[: len(found)]:
            return None
        events = [event(verb, amount) for _, verb, amount in found]
        return self._problem(f"{match[1]} has {match[2]} {match[3]}", events, match[5], NO_GAPS)

    def _problem(self, opening: str, events: Sequence[Operation], asking: str, gaps: Gaps) -> Problem:
        start = int(opening.split()[2])
        statements, value = calculate(start, events, DAYS, gaps)
        told = " ".join(f"on {day} {event.told}." for day, event in zip(DAYS, events, strict=False))
        return digit_problem(
            sentence_case(f"{opening}. {told} {asking}", DAYS),
            key_of(str(start), events),
            statements,
            statements[-1],
            value,
            family=self.name,
            steps=len(events),
            level_steps=self.level_steps,
        )
