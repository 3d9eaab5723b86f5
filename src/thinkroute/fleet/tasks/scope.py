"""Recognising the fleet's questions, grading answers, and saying clearly what lies outside."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from thinkroute.engines.embedded.prompt import THINK_CLOSE, THINK_OPEN, last_turn, normalise
from thinkroute.errors import OutOfScope
from thinkroute.fleet.tasks.digits import Arithmetic, Operators, Story
from thinkroute.fleet.tasks.people import Composition, Relations
from thinkroute.fleet.tasks.problem import LEVELS, FamilyName, Problem, Split, TaskFamily, split_of

FAMILIES: Mapping[FamilyName, TaskFamily] = {
    "arithmetic": Arithmetic(),
    "story": Story(),
    "relations": Relations(),
    "operators": Operators(),
    "composition": Composition(),
}
EXAMPLES = (
    "Start with 4. First plus 3. Second times 9. What is the last digit?",
    "Dora has 2 coins. On Monday she gets 5. On Tuesday she doubles them. What is the last digit?",
    "Who is the tutor of the neighbor of Dora?",
    "Begin with 7. First gap 9. Second star 2. Name the last digit.",
    "Take the age of the boss of Dora. First plus 3. Tell me the last digit.",
)
_MOST_DRAWS = 2000
"""A level with a hundred texts misses a split of a tenth once in 10,000 tries of this many draws, or never has it."""
_LONGEST_CHARS = 20_000
"""No conversation with the fleet is longer; a cheap test keeps long prompts away from the parsers."""
_RESULT = re.compile(r"\bis (\w+)\.?\s*$")


def generate(rng: Random, family: FamilyName, level: int, split: Split) -> Problem:
    """Draw a problem of one family and level from one split.

    Raises:
        KeyError: no family of that name.
        ValueError: the level is not 1 – 5, or the family has no question of that level in the split.
    """
    if level not in LEVELS:
        raise ValueError(f"level {level} does not exist: levels are {LEVELS[0]} to {LEVELS[-1]}")
    task = FAMILIES[family]
    fewest = 1 + (0, *task.level_steps)[level - 1]
    for _ in range(_MOST_DRAWS):
        problem = task.sample(rng, rng.randrange(fewest, task.level_steps[level - 1] + 1))
        if split_of(problem) == split:
            return problem
    raise ValueError(
        f"family {family!r} has no question of level {level} in split {split!r}: every level needs some hundred "
        "different texts"
    )


def recognise(question: str) -> Problem | None:
    """The problem a text asks, solved, or None when it is not in the fleet's language.

    Case, extra white space, soft switches and the final punctuation do not matter.
    """
    turn = last_turn([{"role": "user", "content": question}])
    for task in FAMILIES.values():
        if problem := task.read(turn.question):
            return problem
    return None


def result_of(completion_text: str) -> str | None:
    """The bare result a completion states, or None when it states none in the promised place.

    The text may be a raw message with its thinking block or the answer alone. A block that never closed, or more
    than one close tag, holds no answer.
    """
    if completion_text.count(THINK_CLOSE) > 1:
        return None
    head, closed, answer = completion_text.rpartition(THINK_CLOSE)
    if THINK_OPEN in answer or (head and not closed):
        return None
    match = _RESULT.search(normalise(answer) + ".")
    return match[1] if match else None


def grade(question: str, completion_text: str) -> float:
    """1.0 when the completion states the true result of the question, else 0.0.

    Raises:
        ValueError: the question is not in the fleet's language, so there is no truth to compare with.
    """
    problem = recognise(question)
    if problem is None:
        raise ValueError(f"not a question of the fleet: {question!r}")
    return float(result_of(completion_text) == problem.answer)


def scope_message() -> str:
    """What the fleet can answer, with examples, and how to reach a model that can answer more."""
    examples = "\n".join(f"  {example}" for example in EXAMPLES)
    return (
        "The embedded fleet answers only its own small language: chained operations on digits, short counting "
        "stories (values modulo 10), relations among sixteen people, and their ages. For example:\n"
        f"{examples}\n"
        "To answer anything else, point thinkroute at a real model: "
        "thinkroute serve --upstream http://host:port/v1"
    )


def check_scope(messages: Sequence[Mapping[str, Any]]) -> None:
    """Let a conversation pass whose last user message the fleet can read.

    Raises:
        OutOfScope: it cannot; the message says what can be asked and how to use a real model instead.
    """
    if sum(len(str(message.get("content") or "")) for message in messages) > _LONGEST_CHARS:
        raise OutOfScope(scope_message(), param="messages")
    question = last_turn(messages).question
    if not any(task.read(question) for task in FAMILIES.values()):
        raise OutOfScope(scope_message(), param="messages")
