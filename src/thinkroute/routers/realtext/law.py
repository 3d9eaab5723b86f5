"""The prior's numbers and what they say of an arm: its ability, and how unsure that is.

    logit quality(arm, text) = at_reference − slope · L + doublings(arm) · max(per_doubling + opening · L, 0)
                               + gain of thinking (`signals.thinking`)

L is the text's difficulty in logits from the typical; doublings are those of size and of price, each with its own line
(averaged where both are known). Larger arms lose less on hard texts, so the gap opens with difficulty, and where it would
close on easy ones it stays closed: a larger arm is never believed to be worse. The numbers come from few models, so
`std` is large, and every prediction says so. Price stands in for ability only while nothing better is known: what a
dollar buys falls every year, for all arms alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
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

    def at(self, doublings: float, widening: float = 0.0) -> float:
        """Ability there; `widening` is what difficulty adds to each doubling."""
        return self.at_reference + doublings * max(self.per_doubling + widening, 0.0)


@dataclass(frozen=True, slots=True)
class Ability:
    """What is believed of one arm without thinking."""

    known: tuple[tuple[Line, float], ...]
    """Lines and the arm's doublings on them; empty where its level was declared."""
    declared: float
    std: float
    """Logits."""

    def logit(self, law: PriorLaw, shift: float) -> float:
        """Logit of quality on a text so many logits from typical difficulty, at slope 0."""
        if not self.known:
            return self.declared
        widening = law.opening * shift
        found = sum(line.at(doublings, widening) for line, doublings in self.known) / len(self.known)
        return min(max(found, -_MOST_LOGIT), _MOST_LOGIT)


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
    """How much of the text's difficulty reaches an arm of the reference size, in logits per logit."""
    opening: float
    """Logits by which each doubling counts more, per logit of difficulty."""
    difficulty_std: float
    """Of the text's difficulty, in logits."""
    guard: float
    """Logits of difficulty that must be left of a text before it counts as other than typical."""
    models: dict[str, float]
    """Model → ability fitted, for whoever checks the lines."""
    measured: dict[str, float]
    """On sets and arms that were never trained on."""

    def ability(self, facts: ArmFacts) -> Ability:
        """What to believe of an arm."""
        if facts.quality is not None:
            base = base_quality(facts.quality, facts.effort)
            return Ability((), math.log(base / (1 - base)), _DECLARED_STD)
        known = tuple(
            (line, doublings)
            for line, doublings in (
                (self.by_size, facts.size_doublings),
                (self.by_price, facts.price_doublings),
            )
            if doublings is not None
        )
        if not known:
            return Ability(((self.by_size, facts.word_doublings or 0.0),), 0.0, _UNKNOWN_STD)
        return Ability(known, 0.0, min(line.std for line, _ in known))

    def guarded(self, shift: float) -> float:
        """A text's distance from typical difficulty in logits, less what it must first be sure of."""
        return math.copysign(max(abs(shift) - self.guard, 0.0), shift)
