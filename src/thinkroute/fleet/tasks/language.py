"""The closed language of the fleet: its words and its facts. Data only."""

from __future__ import annotations

NAMES: tuple[str, ...] = (
    "ann", "bea", "cleo", "dora", "emma", "fay", "gina", "hana",
    "iris", "june", "kate", "lily", "mona", "nora", "olga", "ruth",
)  # fmt: skip
OBJECTS = ("coins", "apples", "books", "stamps")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday")

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

START_WORDS = (("start", "with"), ("begin", "with"), ("take",), ("we", "have"))
"""Ways to open an arithmetic question."""
WHO_WORDS = (("who", "is"), ("name",), ("find",), ("tell", "me"))
"""Ways to open a relations question."""
ASK_DIGIT = "what is the last digit"
DIGIT_SENTENCE = "after all the steps the last digit of the result is {answer}."
PERSON_SENTENCE = "after all the steps the person we are looking for is {answer}."
