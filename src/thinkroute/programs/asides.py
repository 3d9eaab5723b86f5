"""Asides: commands a model writes into its message that are for the program, not for the reader.

Owns what counts as a command between two tags, and taking commands out of a text, of pieces (token texts) or of a stream.
Does not own what a command means.

A command is short: at most `most_chars` characters without `<` or line break between the tags. A tag without its partner
is taken out alone and the text around it stays, so that one stray tag cannot swallow an answer; at the very end of a text
a command that was begun goes with it.

Invariant: however a text is cut into pieces, a stream filter shows what `removed` leaves of the whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class Asides:
    """The two tags of a command."""

    open_tag: str
    close_tag: str
    most_chars: int = 16

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where the commands and stray tags of a whole text lie."""
        return [match.span() for match in _pattern(self).finditer(text)]

    def removed(self, text: str) -> str:
        """A whole text without them."""
        return _pattern(self).sub("", text)

    def kept(self, pieces: Sequence[str]) -> list[int] | None:
        """Which pieces of a text stay; None where a command begins or ends inside a piece."""
        spans = self.spans("".join(pieces))
        kept: list[int] = []
        begin = 0
        for index, piece in enumerate(pieces):
            end = begin + len(piece)
            touched = [span for span in spans if span[0] < end and begin < span[1]]
            if not touched:
                kept.append(index)
            elif not (touched[0][0] <= begin and end <= touched[0][1]):
                return None
            begin = end
        return kept

    def undecided(self, text: str) -> int:
        """Where the end of a text begins that may yet turn out to be part of a command; its length when there is none."""
        begun = text.rfind(self.open_tag)
        if begun >= 0:
            inside = text[begun + len(self.open_tag) :]
            body = inside.partition("<")[0]
            closing = inside[len(body) :]
            short = len(body) <= self.most_chars and "\n" not in body
            if short and closing != self.close_tag and self.close_tag.startswith(closing):
                return begun
        longest = max(len(self.open_tag), len(self.close_tag)) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if self.open_tag.startswith(text[-length:]) or self.close_tag.startswith(text[-length:]):
                return len(text) - length
        return len(text)


class AsideFilter:
    """Shows a text that arrives in pieces without its commands."""

    def __init__(self, asides: Asides) -> None:
        self._asides = asides
        self._held = ""

    def feed(self, text: str) -> str:
        """What can be shown now."""
        self._held += text
        decided = self._asides.undecided(self._held)
        # A command that is complete ends before what is undecided, so both parts can be read for themselves.
        shown = _pattern(self._asides, at_end=False).sub("", self._held[:decided])
        self._held = self._held[decided:]
        return shown

    def close(self) -> str:
        """What was held back and is text after all."""
        held, self._held = self._held, ""
        return self._asides.removed(held)


@cache
def _pattern(asides: Asides, *, at_end: bool = True) -> re.Pattern[str]:
    opened, closed = re.escape(asides.open_tag), re.escape(asides.close_tag)
    end = rf"(?:{closed}|\Z)" if at_end else closed
    return re.compile(rf"{opened}[^<\n]{{0,{asides.most_chars}}}{end}|{opened}|{closed}")
