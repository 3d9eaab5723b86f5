"""What a text is about and how hard it is, as signals that answer yes, no or unknown.

Owns the shipped heads' card, the thresholds and the answers. A domain signal says yes or no only where left-out texts
showed that it may: between the thresholds, and on texts unlike all it was trained on, the answer is unknown.
`hard` is the chance that a mid-size model (7 to 9 billion parameters, no thinking) fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final, Literal

import msgspec

from thinkroute.errors import DataError
from thinkroute.signals.domains import DOMAINS, OPEN_ENDED, REASONING
from thinkroute.signals.heads import Heads, unpack_heads
from thinkroute.signals.static_table import StaticTable, shipped_table
from thinkroute.signals.thinking import UNKNOWN_NEED, Need

Answer = Literal["yes", "no", "unknown"]

HEADS_FILE: Final = "heads.npz"
CARD_FILE: Final = "heads.json"
HARD: Final = "hard"
LABELS: Final[tuple[str, ...]] = (*DOMAINS, HARD)
"""In the order of the heads."""
FORMAT: Final = 1


class HeadCard(msgspec.Struct, frozen=True, kw_only=True):
    """One head: when it answers, and what it is worth on texts it had not seen."""

    label: str
    yes_at: float
    """Probability from which on the answer is yes."""
    no_at: float
    """Probability up to which the answer is no."""
    texts: int
    mean: float
    auroc: float
    spearman: float
    ece: float
    answered: float
    """Share of left-out texts answered yes or no."""
    right_when_yes: float | None
    """None: nothing was answered yes."""
    right_when_no: float | None


class SignalsCard(msgspec.Struct, frozen=True, kw_only=True):
    """What a human reads before trusting the heads."""

    format: int
    created: str
    thinkroute_version: str
    command: str
    table_sha256: str
    """Of the table of token vectors the heads read with."""
    sources: dict[str, str]
    """Training set → licence and number of texts."""
    heads: tuple[HeadCard, ...]
    measured: dict[str, float]
    """On sets that were never trained on."""
    numbers_sha256: str


@dataclass(frozen=True, slots=True)
class Signal:
    """One question about a text, and its answer."""

    name: str
    answer: Answer
    probability: float
    """Of yes, calibrated; where the text is unfamiliar it is the training texts' mean."""


@dataclass(frozen=True, slots=True)
class Reading:
    """All signals of one text."""

    signals: tuple[Signal, ...]
    """In the order of `LABELS`."""
    familiar: bool
    """False when the text is unlike the training texts; then every answer is unknown."""

    @property
    def need(self) -> Need:
        """What the text is believed to need, for the law of thinking."""
        if not self.familiar:
            return UNKNOWN_NEED
        of = {signal.name: signal.probability for signal in self.signals}
        return Need(of[HARD], max(of[name] for name in REASONING), max(of[name] for name in OPEN_ENDED))


class SemanticSignals:
    """Heads and thresholds. Never change; reading is pure."""

    def __init__(self, heads: Heads, card: SignalsCard) -> None:
        self.card = card
        self._heads = heads
        self._answers = [(head.label, head.yes_at, head.no_at, head.mean) for head in card.heads]

    def read(self, text: str) -> Reading:
        """Every signal of a text."""
        found = self._heads.read(text)
        pairs = zip(self._answers, found.probability_L.tolist(), strict=True)
        if not found.familiar:
            return Reading(
                tuple(Signal(label, "unknown", mean) for label, _, _, mean in self._answers), False
            )
        return Reading(
            tuple(
                Signal(label, "yes" if p >= yes_at else "no" if p <= no_at else "unknown", p)
                for (label, yes_at, no_at, _), p in pairs
            ),
            True,
        )


def read_signals(resources: Mapping[str, bytes], table: StaticTable) -> SemanticSignals:
    """Signals from the contents of their two files.

    Raises:
        DataError: a file is damaged, of another format, or made for another table.
    """
    try:
        card = msgspec.json.decode(resources[CARD_FILE], type=SignalsCard)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise DataError(f"{CARD_FILE}: not a card of signal heads: {error}") from error
    if card.format != FORMAT or tuple(head.label for head in card.heads) != LABELS:
        raise DataError(f"{CARD_FILE}: made by another version: train the heads again")
    if card.table_sha256 != table.digest:
        raise DataError(f"{CARD_FILE}: made for another table of token vectors: train the heads again")
    return SemanticSignals(Heads(unpack_heads(resources[HEADS_FILE]), table), card)


@cache
def shipped_signals() -> SemanticSignals:
    """The signals that come with the package, read once per process."""
    folder = files("thinkroute.signals") / "shipped"
    return read_signals(
        {name: (folder / name).read_bytes() for name in (CARD_FILE, HEADS_FILE)}, shipped_table()
    )
