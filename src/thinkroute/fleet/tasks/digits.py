"""Families whose state is one digit: chained arithmetic and short stories. All values are taken modulo 10.

Every step has a key of its own (an ordinal, a weekday). That is what makes the tasks learnable by a small model:
"which step is next" is then a lookup of the key, never a count.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

from thinkroute.fleet.tasks.language import (
    ASK_DIGIT,
    DAYS,
    DIGIT_SENTENCE,
    NAMES,
    OBJECTS,
    ORDINALS,
    START_WORDS,
)
from thinkroute.fleet.tasks.problem import FamilyName, Problem, level_of

_OPERATORS = ("plus", "minus", "times")


@dataclass(frozen=True, slots=True)
class _Step:
    """`operand` None means: the current value itself (doubling is adding the value to itself)."""

    operator: str
    operand: int | None


def apply(operator: str, left: int, right: int) -> int:
    """Result of one operation modulo 10."""
    if operator == "plus":
        return (left + right) % 10
    if operator == "minus":
        return (left - right) % 10
    return left * right % 10


def _work_out(
    start: int, steps: list[_Step], keys: tuple[str, ...], broken_rng: Random | None
) -> tuple[str, int]:
    """The trace and the final value; products are random digits when `broken_rng` is given."""
    value, parts = start, list[str]()
    for key, step in zip(keys, steps, strict=False):
        right = value if step.operand is None else step.operand
        result = apply(step.operator, value, right)
        if broken_rng is not None and step.operator == "times":
            result = broken_rng.randrange(10)
        parts.append(f"{key} {value} {step.operator} {right} is {result}.")
        value = result
    return " ".join(parts), value


def _sentence_case(text: str, proper: tuple[str, ...] = ()) -> str:
    text = re.sub(r"(^|[.?] )([a-z])", lambda found: found[1] + found[2].upper(), text)
    return re.sub(r"[a-z]+", lambda found: found[0].title() if found[0] in proper else found[0], text)


class Arithmetic:
    """`Start with 4. First plus 3. Second times 9. What is the last digit?`"""

    name: FamilyName = "arithmetic"
    level_steps: tuple[int, ...] = (1, 2, 3, 4, 6)
    _pattern = re.compile(
        rf"(?:{'|'.join(' '.join(words) for words in START_WORDS)}) (\d)\."
        rf"((?: (?:{'|'.join(ORDINALS)}) (?:plus|minus|times) \d\.)+) {ASK_DIGIT}"
    )
    _step = re.compile(r"(\w+) (plus|minus|times) (\d)\.")

    def sample(self, rng: Random, steps: int, *, broken_times: bool = False) -> Problem:
        """Draw a problem; operands are 1 – 9, and 2 – 9 for `times`."""
        start = rng.randrange(10)
        drawn = list[_Step]()
        for _ in range(steps):
            operator = _OPERATORS[rng.randrange(3)]
            drawn.append(_Step(operator, rng.randrange(2 if operator == "times" else 1, 10)))
        words = START_WORDS[rng.randrange(len(START_WORDS))]
        return self._problem(" ".join(words), start, drawn, rng if broken_times else None)

    def read(self, text: str) -> Problem | None:
        """Parse a normalised question."""
        match = self._pattern.fullmatch(text)
        if not match:
            return None
        found = self._step.findall(match[2])
        if tuple(key for key, _, _ in found) != ORDINALS[: len(found)]:
            return None
        steps = [_Step(operator, int(operand)) for _, operator, operand in found]
        opening = text[: match.start(1) - 1]
        return self._problem(opening, int(match[1]), steps, None)

    def _problem(self, opening: str, start: int, steps: list[_Step], broken_rng: Random | None) -> Problem:
        trace, value = _work_out(start, steps, ORDINALS, broken_rng)
        told = " ".join(
            f"{key} {step.operator} {step.operand}." for key, step in zip(ORDINALS, steps, strict=False)
        )
        question = _sentence_case(f"{opening} {start}. {told} {ASK_DIGIT}?")
        sentence = DIGIT_SENTENCE.format(answer=value)
        level = level_of(len(steps), self.level_steps)
        return Problem(question, trace, str(value), sentence, self.name, len(steps), level)


class Story:
    """`Dora has 2 coins. On Monday she gets 5. On Tuesday she doubles them. What is the last digit?`"""

    name: FamilyName = "story"
    level_steps: tuple[int, ...] = (1, 2, 3, 4, 6)
    _pattern = re.compile(
        rf"({'|'.join(NAMES)}) has (\d) ({'|'.join(OBJECTS)})\."
        rf"((?: on (?:{'|'.join(DAYS)}) she (?:gets \d|loses \d|doubles them|triples them)\.)+) {ASK_DIGIT}"
    )
    _step = re.compile(r"on (\w+) she (\w+) (\w+)\.")

    def sample(self, rng: Random, steps: int, *, broken_times: bool = False) -> Problem:
        """Draw a problem; a third of the events double or triple, amounts are 1 – 9."""
        name, owned = NAMES[rng.randrange(len(NAMES))], OBJECTS[rng.randrange(len(OBJECTS))]
        start = rng.randrange(10)
        drawn = list[_Step]()
        for _ in range(steps):
            kind = rng.randrange(6)
            amount = rng.randrange(1, 10)
            if kind < 4:
                drawn.append(_Step("plus" if kind < 2 else "minus", amount))
            else:
                drawn.append(_Step("plus", None) if kind == 4 else _Step("times", 3))
        return self._problem(name, owned, start, drawn, rng if broken_times else None)

    def read(self, text: str) -> Problem | None:
        """Parse a normalised question."""
        match = self._pattern.fullmatch(text)
        if not match:
            return None
        found = self._step.findall(match[4])
        if tuple(day for day, _, _ in found) != DAYS[: len(found)]:
            return None
        steps = [_read_event(verb, amount) for _, verb, amount in found]
        return self._problem(match[1], match[3], int(match[2]), steps, None)

    def _problem(
        self, name: str, owned: str, start: int, steps: list[_Step], broken_rng: Random | None
    ) -> Problem:
        trace, value = _work_out(start, steps, DAYS, broken_rng)
        told = " ".join(f"on {day} she {_tell(step)}." for day, step in zip(DAYS, steps, strict=False))
        text = f"{name} has {start} {owned}. {told} {ASK_DIGIT}?"
        question = _sentence_case(text, (*NAMES, *DAYS))
        sentence = DIGIT_SENTENCE.format(answer=value)
        level = level_of(len(steps), self.level_steps)
        return Problem(question, trace, str(value), sentence, self.name, len(steps), level)


def _tell(step: _Step) -> str:
    if step.operator == "times":
        return "triples them"
    if step.operand is None:
        return "doubles them"
    return f"{'gets' if step.operator == 'plus' else 'loses'} {step.operand}"


def _read_event(verb: str, amount: str) -> _Step:
    if verb == "triples":
        return _Step("times", 3)
    if verb == "doubles":
        return _Step("plus", None)
    return _Step("plus" if verb == "gets" else "minus", int(amount))
