"""What can be known of an arm without asking it anything: its effort, size, price, and the words of its name.

Sizes are read from names and descriptions as people write them: `70B`, `8x7b`, `30b-a3b` (active parameters after the
`a`), `49-billion-parameter`. A mixture of experts counts as the geometric mean of all and of active parameters.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from thinkroute.types import Effort

_EXPERTS: Final = re.compile(r"(?<![\w.])(\d+)x(\d+(?:\.\d+)?)b(?![a-z])", re.IGNORECASE)
_SIZE: Final = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)(?:b|[\s-]?billion)(?![a-z])", re.IGNORECASE)
_ACTIVE: Final = re.compile(r"(?<![\w.])a(\d+(?:\.\d+)?)b(?![a-z])", re.IGNORECASE)
_ACTIVE_EXPERTS: Final = 2
"""Experts that read each token, where a name only says how many there are."""
_WORD: Final = re.compile(r"[a-z]+")
_DOUBLINGS_OF_WORD: Final = {
    "nano": -3.0, "tiny": -3.0, "micro": -3.0, "mini": -1.0, "lite": -1.5, "small": -1.0, "flash": 0.0, "haiku": 0.0,
    "instant": -1.0, "fast": -0.5, "medium": 1.5, "turbo": 1.0, "sonnet": 3.0, "plus": 2.5, "pro": 4.0, "large": 3.0,
    "max": 4.0, "ultra": 4.5, "opus": 5.0, "frontier": 4.0,
}  # fmt: skip
"""How makers call their models, in doublings of 8 billion parameters. Declared, and used only without size and price."""
REFERENCE_SIZE_B: Final = 8.0
REFERENCE_PRICE: Final = 0.2
"""Dollars per million generated tokens that a model of the reference size costs."""


@dataclass(frozen=True, slots=True)
class ArmFacts:
    """One arm. What is None or empty is unknown."""

    effort: Effort = Effort()
    name: str = ""
    """The model, as its maker calls it."""
    description: str = ""
    """What its maker says of it, in a sentence or two."""
    parameters_b: float | None = None
    """Size in billions of parameters; None: read from name or description, where they tell."""
    output_usd_per_mtok: float | None = None
    quality: float | None = None
    """The user's own guess of quality on typical texts, with this effort. It stands before everything else."""

    @property
    def size_doublings(self) -> float | None:
        """Doublings of the reference size; None where nothing tells a size."""
        size = self.parameters_b or size_b(self.name) or size_b(self.description)
        return None if size is None else math.log2(size / REFERENCE_SIZE_B)

    @property
    def price_doublings(self) -> float | None:
        """Doublings of the reference price; None where the price is unknown or nothing, which tells as little."""
        price = self.output_usd_per_mtok
        return math.log2(price / REFERENCE_PRICE) if price else None

    @property
    def word_doublings(self) -> float | None:
        """What the words of the name declare; None where there is none of them."""
        found = [
            _DOUBLINGS_OF_WORD[word]
            for word in _WORD.findall(self.name.lower())
            if word in _DOUBLINGS_OF_WORD
        ]
        return sum(found) / len(found) if found else None


def size_b(text: str) -> float | None:
    """Billions of parameters a text tells, or None."""
    if experts := _EXPERTS.search(text):
        count, each = int(experts.group(1)), float(experts.group(2))
        return math.sqrt(count * each * min(count, _ACTIVE_EXPERTS) * each) or None
    found = _SIZE.search(text)
    if found is None or not (total := float(found.group(1))):
        return None
    active = _ACTIVE.search(text)
    return math.sqrt(total * float(active.group(1))) or None if active else total
