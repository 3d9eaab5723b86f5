"""The domains a text can be about, and how far thinking is known to pay in each.

A text may be about several, or about none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

Domain = Literal[
    "mathematics",
    "programming",
    "natural_science",
    "medicine",
    "technology",
    "law",
    "business",
    "history",
    "philosophy",
    "social_science",
    "general_knowledge",
    "everyday",
    "writing",
]
"""`technology` is computing and engineering beside writing code; `everyday` is common sense about daily life."""

DOMAINS: Final[tuple[Domain, ...]] = get_args(Domain)

REASONING: Final[tuple[Domain, ...]] = ("mathematics", "programming")
"""Where a trace of steps does most of the work."""
OPEN_ENDED: Final[tuple[Domain, ...]] = ("writing", "everyday")
"""Where there is little to work out."""

DESCRIPTION: Final[Mapping[Domain, str]] = {
    "mathematics": "calculation, proof, statistics, word problems",
    "programming": "writing, reading or mending code",
    "natural_science": "physics, chemistry, biology, astronomy, earth",
    "medicine": "health, diseases, the body, nutrition",
    "technology": "computer science, machine learning, security, engineering",
    "law": "law and legal reasoning",
    "business": "economics, accounting, management, marketing",
    "history": "history and prehistory",
    "philosophy": "philosophy, ethics, logic, religion",
    "social_science": "psychology, sociology, politics, geography",
    "general_knowledge": "facts about the world, quiz questions",
    "everyday": "common sense, small talk, advice for daily life",
    "writing": "composing, rewriting, translating, playing a role",
}
