"""A BERT sentence encoder as a teacher: vectors of texts and of single tokens, kept on disk between runs.

Owns asking the model on torch and the file of answers, so that an interrupted or repeated distillation asks for
nothing twice. The file holds SHA-256 digests of the texts, not the texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from thinkroute.errors import ConfigError, DataError
from thinkroute.signals.base import Matrix
from thinkroute.signals.huggingface import HuggingfaceEncoder, HuggingfaceSettings

_MOST_TOKENS: Final = 256
_SAVED_EVERY: Final = 2000
_TOKENS_AT_ONCE: Final = 512


class SentenceTeacher:
    """See the module. `vocabulary` is the model's, in order."""

    def __init__(
        self, model: Path, cache: Path | None = None, progress: Callable[[str], None] | None = None
    ) -> None:
        vocabulary = model / "vocab.txt"
        if not vocabulary.is_file():
            raise ConfigError(
                f"{vocabulary} is missing: give the folder of a BERT sentence encoder with --model"
            )
        self.vocabulary: Sequence[str] = vocabulary.read_text(encoding="utf-8").splitlines()
        self._model, self._cache, self._progress = model, cache, progress
        self._encoder: HuggingfaceEncoder | None = None
        self._known = _read(cache) if cache is not None and cache.is_file() else {}

    def of_texts(self, texts: Sequence[str]) -> Matrix:
        """Unit vectors of texts, shape (Q, E)."""
        digests = [hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in texts]
        by_digest = dict(zip(digests, texts, strict=True))
        missing = [digest for digest in by_digest if digest not in self._known]
        for start in range(0, len(missing), _SAVED_EVERY):
            part = missing[start : start + _SAVED_EVERY]
            self._say(f"the teacher reads texts {start} to {start + len(part)} of {len(missing)}")
            vectors_PE = self._asked().encode_batch([by_digest[digest] for digest in part])
            self._known.update(zip(part, vectors_PE, strict=True))
            self._save()
        return np.stack([self._known[digest] for digest in digests])

    def of_tokens(self) -> Matrix:
        """Unit vectors of the vocabulary's tokens, each on its own and at its own place, shape (V, E)."""
        self._say("the teacher reads every token of its vocabulary")
        first, last = self.vocabulary.index("[CLS]"), self.vocabulary.index("[SEP]")
        alone = [[first, token, last] for token in range(len(self.vocabulary))]
        encoder = self._asked()
        parts = [
            encoder.places(alone[start : start + _TOKENS_AT_ONCE])[:, 1]
            for start in range(0, len(alone), _TOKENS_AT_ONCE)
        ]
        vectors_VE = np.concatenate(parts)
        return vectors_VE / np.maximum(np.linalg.norm(vectors_VE, axis=1, keepdims=True), 1e-12)

    def _asked(self) -> HuggingfaceEncoder:
        if self._encoder is None:
            self._encoder = HuggingfaceEncoder(
                HuggingfaceSettings(str(self._model), most_tokens=_MOST_TOKENS)
            )
        return self._encoder

    def _save(self) -> None:
        if self._cache is None:
            return
        digests = np.array([np.frombuffer(digest, dtype=np.uint8) for digest in self._known])
        part = self._cache.with_suffix(".part")
        with part.open("wb") as file:
            np.savez(file, digests=digests, vectors=np.stack(list(self._known.values())))
        part.replace(self._cache)

    def _say(self, line: str) -> None:
        if self._progress is not None:
            self._progress(line)


def _read(path: Path) -> dict[bytes, np.typing.NDArray[np.float32]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            digests, vectors = archive["digests"], archive["vectors"].astype(np.float32)
    except (ValueError, KeyError, OSError, EOFError) as error:
        raise DataError(f"{path}: not a file of teacher's answers: {error}") from error
    return {digest.tobytes(): vector for digest, vector in zip(digests, vectors, strict=True)}
