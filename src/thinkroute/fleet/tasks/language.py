"""The closed language of the fleet: its words, its operators and its facts. Data only."""

from __future__ import annotations

from collections.abc import Callable

NAMES: tuple[str, ...] = (
    "ann", "bea", "cleo", "dora", "emma", "fay", "gina", "hana",
    "iris", "june", "kate", "lily", "mona", "nora", "olga", "ruth",
)  # fmt: skip
OBJECTS = ("coins", "apples", "books", "stamps")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday")

OPERATORS: dict[str, Callable[[int, int], int]] = {
    "plus": lambda left, right: (left + right) % 10,
    "minus": lambda left, right: (left - right) % 10,
    "times": lambda left, right: left * right % 10,
    "gap": lambda left, right: abs(left - right),
    "star": lambda left, right: (3 * left + right * right) % 10,
}
"""Operators on digits, modulo 10: `gap` is the distance, `star` three times the left plus the square of the right."""
COMMON_OPERATORS = ("plus", "minus", "times")
RARE_OPERATORS = ("gap", "star")

_ROWS = {
    "mentor": "dora olga hana june nora lily emma fay mona iris bea ann ruth gina cleo kate",
    "neighbor": "olga fay nora hana june mona kate ruth lily gina emma cleo iris ann dora bea",
    "tutor": "iris mona dora emma gina ruth kate olga nora bea june cleo fay hana ann lily",
    "boss": "hana nora bea olga ruth kate dora ann cleo mona lily june fay iris gina emma",
    "rival": "fay emma lily cleo ruth iris nora june olga dora ann gina kate hana bea mona",
    "friend": "nora gina emma kate ann cleo dora iris olga mona ruth bea hana fay june lily",
}
FACTS: dict[str, dict[str, str]] = {
    relation: dict(zip(NAMES, row.split(), strict=True)) for relation, row in _ROWS.items()
}
"""relation → person → the one person who stands in that relation to them."""
RELATIONS = tuple(FACTS)
AGES: dict[str, int] = dict(zip(NAMES, map(int, "7302945816490371"), strict=True))
"""Person → last digit of their age: the bridge from people to numbers."""

START_WORDS = (
    ("start", "with"), ("begin", "with"), ("take",), ("we", "have"),
    ("use",), ("consider",), ("suppose", "we", "have"), ("go", "from"),
)  # fmt: skip
"""Ways to open a question about numbers."""
WHO_WORDS = (
    ("who", "is"), ("name",), ("find",), ("tell", "me"), ("give", "me"), ("say", "who", "is"), ("look", "for"), ("i", "want"),
)  # fmt: skip
"""Ways to open a relations question."""
ASK_WORDS = (("what", "is"), ("name",), ("tell", "me"), ("give", "me"), ("find",), ("i", "want"))
"""Ways to ask for the last digit."""
GAIN_VERBS = ("gets", "finds", "wins")
LOSS_VERBS = ("loses", "sells", "drops")
ASKED_DIGIT = "the last digit"
DIGIT_SENTENCE = "after all the steps the last digit of the result is {answer}."
PERSON_SENTENCE = "after all the steps the person we are looking for is {answer}."
CHECK = "now check the last step. {check} that is {verdict}"
TRACE = "{working} {checks}, so the {asked} is {answer}."
"""A whole thought: the steps, then the last one worked out anew and compared, once or more, and the conclusion."""
