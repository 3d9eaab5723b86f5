"""Text to token ids and back, one token at a time. Owns the tokenizer file of one member."""

from __future__ import annotations

import codecs
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from thinkroute.engines.embedded.prompt import THINK_CLOSE, THINK_OPEN, TURN_END

_LONGEST_KEPT_PIECE = 32
_MOST_KEPT_PIECES = 4096


def _bytes_of_symbols() -> dict[str, int]:
    """The byte each symbol of a byte-level vocabulary stands for (GPT-2's table: printable bytes are themselves)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    table = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    table.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return table


class _AddedToken(msgspec.Struct):
    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False


class _Step(msgspec.Struct):
    type: str
    pattern: dict[str, str] = {}
    behavior: str = ""
    invert: bool = False


class _PreTokenizer(msgspec.Struct):
    pretokenizers: list[_Step] = []


class _Description(msgspec.Struct):
    """What of a `tokenizer.json` says how a text is cut into pieces."""

    added_tokens: list[_AddedToken] = []
    normalizer: object = None
    pre_tokenizer: _PreTokenizer | None = None

    def pieces(self) -> re.Pattern[str] | None:
        """What is encoded by itself, whatever stands beside it; None where the format is not the fleet's."""
        steps = self.pre_tokenizer.pretokenizers if self.pre_tokenizer else []
        if self.normalizer or [step.type for step in steps] != ["Split", "ByteLevel"]:
            return None
        split, tokens = (
            steps[0],
            sorted(self.added_tokens, key=lambda token: len(token.content), reverse=True),
        )
        if split.behavior != "Isolated" or split.invert or list(split.pattern) != ["Regex"]:
            return None
        if any(token.single_word or token.lstrip or token.rstrip or token.normalized for token in tokens):
            return None
        try:
            return re.compile(
                "|".join([*(re.escape(token.content) for token in tokens), split.pattern["Regex"]])
            )
        except re.error:  # the tokenizer's regular expressions know more than Python's
            return None


class Vocabulary:
    """Encodes prompts and gives every token's exact bytes."""

    def __init__(self, path: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(path))
        self._piece = msgspec.json.decode(path.read_bytes(), type=_Description).pieces()
        self._ids_of_pieces: dict[str, list[int]] = {}
        table = _bytes_of_symbols()
        added = {index: token.content for index, token in self._tokenizer.get_added_tokens_decoder().items()}
        self._bytes: defaultdict[int, bytes] = defaultdict(bytes)
        for index in range(self._tokenizer.get_vocab_size()):
            symbols = self._tokenizer.id_to_token(index) or ""
            plain = added.get(index)
            self._bytes[index] = plain.encode() if plain else bytes(table[symbol] for symbol in symbols)
        self.end_id = self._id(TURN_END)
        self.open_id = self._id(THINK_OPEN)
        self.close_id = self._id(THINK_CLOSE)
        self.special_ids = frozenset({self.end_id, self.open_id, self.close_id})
        """Tokens that are not text: the end of the turn, and the tags around thinking."""

    def _id(self, token: str) -> int:
        index = self._tokenizer.token_to_id(token)
        if index is None:
            raise ValueError(f"the tokenizer has no token {token!r}")
        return index

    def single_id(self, text: str) -> int | None:
        """The id of the token that is exactly this text; None when it takes several."""
        token_ids = self.encode(text)
        return token_ids[0] if len(token_ids) == 1 else None

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; special tokens written in it are recognised."""
        pieces: list[str] = self._piece.findall(text) if self._piece else [text]
        if sum(map(len, pieces)) != len(text):
            pieces = [text]
        token_ids: list[int] = []
        for piece in pieces:
            token_ids += self._ids_of_pieces.get(piece) or self._encode_piece(piece)
        return token_ids

    def _encode_piece(self, piece: str) -> list[int]:
        token_ids = self._tokenizer.encode(piece, add_special_tokens=False).ids
        # Most prompts are made of few words; looking those up takes a quarter of the tokenizer's time.
        if len(piece) <= _LONGEST_KEPT_PIECE and len(self._ids_of_pieces) < _MOST_KEPT_PIECES:
            self._ids_of_pieces[piece] = token_ids
        return token_ids

    def bytes_of(self, token_id: int) -> bytes:
        """Exact bytes of one token; empty for the padding rows of the embedding."""
        return self._bytes[token_id]

    def bytes_of_all(self, token_ids: Sequence[int]) -> bytes:
        """Exact bytes of consecutive tokens."""
        return b"".join(map(self._bytes.__getitem__, token_ids))

    def text_of(self, token_id: int) -> str:
        """Text of one token, for display: part of a character becomes U+FFFD."""
        return self.bytes_of(token_id).decode(errors="replace")

    def decode(self, token_ids: list[int]) -> str:
        """The concatenation of the tokens' bytes as text."""
        return self.bytes_of_all(token_ids).decode(errors="replace")

    @staticmethod
    def incremental_decoder() -> codecs.IncrementalDecoder:
        """Turns bytes into text as they arrive, holding back unfinished characters."""
        return codecs.getincrementaldecoder("utf-8")(errors="replace")
