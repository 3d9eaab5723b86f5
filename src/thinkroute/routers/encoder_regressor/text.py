"""Serving a fine-tuned encoder: text to tokens by `tokenizers`, tokens to numbers by ONNX Runtime, nothing else.

Owns how a long text is cut (head and tail, and whether it was, is always known) and the two files an artefact carries
as bytes: graph and tokenizer. Texts are computed one at a time even in a batch: int8 scales are taken over everything
computed at once, so that a neighbour would change a text's numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from thinkroute.errors import DataError
from thinkroute.signals.base import Array, Matrix, Vector
from thinkroute.signals.cut import head_and_tail

_log = logging.getLogger(__name__)

_BYTES_PER_TOKEN: Final = 16
"""A text is cut to so many bytes per allowed token before tokenising, which bounds its time. Few tokens are longer."""
_GRAPH, _TOKENIZER = "text_graph", "text_tokenizer"


@dataclass(frozen=True)
class TextGraph:
    """A trained encoder as bytes."""

    graph: bytes
    """ONNX: `ids` (1, T) to `output` (1, K)."""
    tokenizer: bytes
    """A `tokenizer.json`."""
    most_tokens: int
    """Tokens read, special ones included."""

    def arrays(self) -> dict[str, Array]:
        """What to save: bytes as numbers, so that the artefact's checksum covers them."""
        parts = {_GRAPH: self.graph, _TOKENIZER: self.tokenizer}
        return {name: np.frombuffer(raw, dtype=np.uint8) for name, raw in parts.items()}

    @classmethod
    def of(cls, arrays: Mapping[str, Array], most_tokens: int) -> TextGraph:
        """What was saved.

        Raises:
            DataError: a part is missing.
        """
        if _GRAPH not in arrays or _TOKENIZER not in arrays:
            raise DataError(f"the artefact lacks {_GRAPH} or {_TOKENIZER}: fit again")
        return cls(arrays[_GRAPH].tobytes(), arrays[_TOKENIZER].tobytes(), most_tokens)


class TokenCutter:
    """Text to token numbers, the middle left out where there are too many."""

    def __init__(self, tokenizer: bytes, most_tokens: int) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_str(tokenizer.decode("utf-8"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        probe = self._tokenizer.encode("a")
        special = [bool(mark) for mark in probe.special_tokens_mask]
        start = special.index(False) if False in special else len(special)
        end = len(special) - special[::-1].index(False) if False in special else len(special)
        self._before, self._after = list(probe.ids[:start]), list(probe.ids[end:])
        self.most_tokens = most_tokens
        """Tokens kept, special ones included."""
        self._room = most_tokens - len(self._before) - len(self._after)
        if self._room < 2:
            raise DataError(f"most_tokens={most_tokens} leaves no room for a text beside the special tokens")

    def __call__(self, text: str) -> tuple[list[int], bool]:
        """Token numbers, never empty, and whether anything was left out."""
        half = self._room * _BYTES_PER_TOKEN
        raw = head_and_tail(text, half, half)
        body: list[int] = self._tokenizer.encode(raw.decode("utf-8", "ignore"), add_special_tokens=False).ids
        cut = len(body) > self._room or len(text) > 2 * half
        if len(body) > self._room:
            tail = self._room // 2
            body = body[: self._room - tail] + body[len(body) - tail :]
        # A tokenizer without special tokens turns an empty text into nothing, which no model can read.
        return self._before + body + self._after or [0], cut


class TextModel:
    """A loaded `TextGraph`."""

    def __init__(self, parts: TextGraph, *, threads: int = 1) -> None:
        self.parts = parts
        """What it was loaded from."""
        self._cutter = TokenCutter(parts.tokenizer, parts.most_tokens)
        self._session = _session(parts.graph, threads)
        self.width = int(self._session.get_outputs()[0].shape[-1])
        """Numbers per text."""

    def encode(self, text: str) -> Vector:
        """Numbers of one text, shape (K,)."""
        ids, cut = self._cutter(text)
        if cut:
            _log.info(
                "a text of %d characters was cut to its first and last tokens, %d in all", len(text), len(ids)
            )
        output_1K = cast("Matrix", self._session.run(None, {"ids": np.array([ids], dtype=np.int64)})[0])
        return output_1K[0]

    def encode_batch(self, texts: Sequence[str]) -> Matrix:
        """Numbers of many texts, shape (Q, K)."""
        rows: list[NDArray[np.float32]] = [self.encode(text) for text in texts]
        return np.array(rows, dtype=np.float32).reshape(len(texts), self.width)


def _session(graph: bytes, threads: int) -> Any:
    import onnxruntime  # pyright: ignore[reportMissingTypeStubs]

    runtime = cast("Any", onnxruntime)  # no type stubs exist
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # The runtime's own exceptions have no common base below Exception.
        raise DataError(f"the artefact's graph is not one ONNX Runtime can read: {error}") from error
