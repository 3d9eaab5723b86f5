"""BERT's uncased WordPiece: text to numbers of the vocabulary. Python and C only, no tokenizer library.

Owns the splitting (accents and control characters dropped, case folded, CJK characters and punctuation on their own)
and the greedy longest match of each word. It gives the very numbers of the reference tokenizer, several times
quicker on short texts, with one deviation: text that spells a special token, such as `[CLS]`, is text.
Words are remembered, so it is quick on words seen before; the memory is bounded. What was split already elsewhere is
not split again: `of_tokens` takes words of lower-case ASCII as other readers find them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from struct import pack
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Pieces: TypeAlias = NDArray[np.intp]

UNKNOWN: Final = "[UNK]"
_CONTINUED: Final = "##"
_MOST_WORD_CHARS: Final = 100
"""Longer words are unknown, as in BERT: the greedy match is quadratic in them."""
_MOST_WORDS: Final = 65536
_MOST_REMEMBERED_BYTES: Final = 64
"""Longer words are rarely met again, and would let callers fill the memory."""
_WORD_ASCII: Final = re.compile(rb"[a-z0-9]+|[!-/:-@\[-`{-~]")
_DROPPED_ASCII: Final = bytes({*range(32), 127} - set(b"\t\n\r"))
"""Left out without ending a word."""
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


class _Remembered(dict[bytes, bytes]):
    """Pieces of words met before, as the bytes of their numbers: joining those needs no number in between."""

    def __init__(self, learn: Callable[[bytes], Sequence[int]]) -> None:
        super().__init__()
        self._learn = learn

    def __missing__(self, word: bytes) -> bytes:
        numbers = self._learn(word)
        pieces = pack(f"{len(numbers)}n", *numbers)
        if len(word) <= _MOST_REMEMBERED_BYTES:
            if len(self) >= _MOST_WORDS:
                self.clear()
            self[word] = pieces
        return pieces


class WordPiece:
    """A vocabulary that reads text. Safe to share between threads."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        """`vocabulary` in the order of its numbers; pieces that continue a word begin with `##`."""
        self._number = {piece: number for number, piece in enumerate(vocabulary)}
        self._unknown = (self._number[UNKNOWN],)
        self._words = _Remembered(self._learn)
        self._folding = _Folding()

    def encode(self, raw: bytes) -> list[int]:
        """Numbers of a UTF-8 text; bytes that are not UTF-8 are left out."""
        return self.pieces(raw).tolist()

    def pieces(self, raw: bytes) -> Pieces:
        """As `encode`, as an array that cannot be written to."""
        if raw.isascii():
            words = _WORD_ASCII.findall(raw.translate(None, _DROPPED_ASCII).lower())
        else:
            text = unicodedata.normalize("NFD", raw.decode("utf-8", "ignore"))
            words = text.translate(self._folding).encode().split()
        return self.of_tokens(words)

    def of_tokens(self, tokens: Iterable[bytes]) -> Pieces:
        """Numbers of text that is split already; underscores within tokens of ASCII are marks of their own."""
        return np.frombuffer(b"".join(map(self._words.__getitem__, tokens)), dtype=np.intp)

    def _learn(self, token: bytes) -> Sequence[int]:
        if b"_" not in token:
            return self._pieces(token.decode())
        return [piece for word in _WORD_ASCII.findall(token) for piece in self._pieces(word.decode())]

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


def splits_alike(raw: bytes) -> bool:
    """Whether splitting at white space and punctuation, underscores or not, finds the same words: ASCII without the
    control characters that are left out.
    """
    return raw.isascii() and len(raw.translate(None, _DROPPED_ASCII)) == len(raw)


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
