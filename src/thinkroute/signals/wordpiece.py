"""BERT's uncased WordPiece: text to numbers of the vocabulary. Python and C only, no tokenizer library.

Owns the splitting (accents and control characters dropped, case folded, CJK characters and punctuation on their own)
and the greedy longest match of each word. It gives the very numbers of the reference tokenizer, several times
quicker on short texts, with one deviation: text that spells a special token, such as `[CLS]`, is text.
Words are remembered, so it is quick on words seen before; the memory is bounded.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

UNKNOWN: Final = "[UNK]"
_CONTINUED: Final = "##"
_MOST_WORD_CHARS: Final = 100
"""Longer words are unknown, as in BERT: the greedy match is quadratic in them."""
_MOST_WORDS: Final = 65536
_WORD_ASCII: Final = re.compile(rb"[a-z0-9]+|[!-/:-@\[-`{-~]")
_DROPPED_ASCII: Final = bytes({*range(32), 127} - set(b"\t\n\r"))
_CJK: Final = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)


class _Folding(dict[int, str]):
    """What becomes of each character, for `str.translate`; found when first met, so at most once per character."""

    def __missing__(self, code: int) -> str:
        folded = self[code] = _fold(chr(code))
        return folded


class WordPiece:
    """A vocabulary that reads text. Safe to share between threads."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        """`vocabulary` in the order of its numbers; pieces that continue a word begin with `##`."""
        self._number = {piece: number for number, piece in enumerate(vocabulary)}
        self._unknown = (self._number[UNKNOWN],)
        self._words: dict[bytes, Sequence[int]] = {}
        self._folding = _Folding()

    def encode(self, raw: bytes) -> list[int]:
        """Numbers of a UTF-8 text; bytes that are not UTF-8 are left out."""
        if raw.isascii():
            words = _WORD_ASCII.findall(raw.translate(None, _DROPPED_ASCII).lower())
        else:
            text = unicodedata.normalize("NFD", raw.decode("utf-8", "ignore"))
            words = text.translate(self._folding).encode().split()
        known, numbers = self._words, list[int]()
        for word in words:
            pieces = known.get(word)
            numbers += self._learn(word) if pieces is None else pieces
        return numbers

    def _learn(self, word: bytes) -> Sequence[int]:
        if len(self._words) >= _MOST_WORDS:
            self._words.clear()
        pieces = self._words[word] = self._pieces(word.decode())
        return pieces

    def _pieces(self, word: str) -> Sequence[int]:
        """Longest piece first, then the longest that continues, …; unknown as a whole when one place has none."""
        if len(word) > _MOST_WORD_CHARS:
            return self._unknown
        pieces: list[int] = []
        start = 0
        while start < len(word):
            mark = _CONTINUED if start else ""
            for end in range(len(word), start, -1):
                piece = self._number.get(mark + word[start:end])
                if piece is not None:
                    break
            else:
                return self._unknown
            pieces.append(piece)
            start = end
        return tuple(pieces)


def _fold(character: str) -> str:
    category = unicodedata.category(character)
    if character in "\t\n\r" or category in ("Zs", "Zl", "Zp"):
        return " "
    if category == "Mn" or category[0] == "C" or character == "\ufffd":
        return ""
    if category[0] == "P" or (character.isascii() and not character.isalnum()) or _is_cjk(ord(character)):
        return f" {character} "
    return character.lower()


def _is_cjk(code: int) -> bool:
    return any(first <= code <= last for first, last in _CJK)
