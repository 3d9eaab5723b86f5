"""The prior's numbers and what they say of an arm: its ability, and how unsure that is.

    logit quality(arm, text) = ability(arm) − slope · (logit d − logit d₀) + gain of thinking (`signals.thinking`)
    ability(arm)             = at_reference + per_doubling · doublings(arm)

d is the text's difficulty, doublings are those of size and of price (two lines, averaged where both are known). Lines
are fitted over few models, so `ability_std` is large, and every prediction says so. Price stands in for ability only
while nothing better is known: what a dollar buys falls every year, for all arms alike.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from thinkroute.routers.realtext.facts import ArmFacts
from thinkroute.signals.thinking import base_quality

FORMAT: Final = 1
_UNKNOWN_STD: Final = 1.5
"""Logits, of an arm of which neither size nor price is known."""
_DECLARED_STD: Final = 0.5
_MOST_LOGIT: Final = 4.0


class Line(msgspec.Struct, frozen=True):
    """Ability in logits over doublings."""

    at_reference: float
    per_doubling: float
    std: float
    """Of one model around the line."""

    def at(self, doublings: float) -> float:
        """Ability there."""
        return self.at_reference + self.per_doubling * doublings


class PriorLaw(msgspec.Struct, frozen=True, kw_only=True):
    """The artefact: numbers, where they come from, and what they are worth."""

    format: int
    what: str
    """For a human: that this is a prior."""
    created: str
    thinkroute_version: str
    command: str
    sources: dict[str, str]
    """Set → licence and texts learned from."""
    by_size: Line
    by_price: Line
    slope: float
    """How much of the text's difficulty reaches an arm, in logits per logit."""
    difficulty_std: float
    """Of the text's difficulty, in logits."""
    guard: float
    """Logits of difficulty that must be left of a text before it counts as other than typical."""
    models: dict[str, float]
    """Model → ability fitted, for whoever checks the lines."""
    measured: dict[str, float]
    """On sets and arms that were never trained on."""

    def ability(self, facts: ArmFacts) -> tuple[float, float]:
        """Logits of quality without thinking on a typical text, and their standard deviation."""
        if facts.quality is not None:
            base = base_quality(facts.quality, facts.effort)
            return math.log(base / (1 - base)), _DECLARED_STD
        known = [
            (line.at(doublings), line.std)
            for line, doublings in (
                (self.by_size, facts.size_doublings),
                (self.by_price, facts.price_doublings),
            )
            if doublings is not None
        ]
        if not known:
            return _bounded(self.by_size.at(facts.word_doublings or 0.0)), _UNKNOWN_STD
        return _bounded(sum(mean for mean, _ in known) / len(known)), min(std for _, std in known)

    def guarded(self, shift: float) -> float:
        """A text's distance from typical difficulty in logits, less what it must first be sure of."""
        return math.copysign(max(abs(shift) - self.guard, 0.0), shift)


def _bounded(logit: float) -> float:
    return min(max(logit, -_MOST_LOGIT), _MOST_LOGIT)
