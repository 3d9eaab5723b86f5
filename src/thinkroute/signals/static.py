"""Mean of token vectors distilled from a sentence encoder; numpy only.

Owns the encoder over the shipped table (`static_table`). The vector is two blocks side by side: the text's topic, a
weighted mean of its tokens' vectors at unit length, and its scaled structure as in `hashed_ngrams`. What fitting
learns from texts is how much each token says among them: a preamble that every prompt shares must not drown the
question, so tokens count by their inverse document frequency on top of the weight that is part of their row.

The text is cut to head and tail before it is split into tokens; structure sees everything. The table itself is not
saved with a router, only its SHA-256: another table means other vectors, and loading says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from thinkroute.errors import ConfigError, DataError
from thinkroute.signals.base import Array, EncoderKind, EncoderState, Matrix, Scalar, Vector
from thinkroute.signals.cut import head_and_tail
from thinkroute.signals.settings import read_settings
from thinkroute.signals.static_table import StaticTable, shipped_table
from thinkroute.signals.structure import FEATURES, ScaledStructure
from thinkroute.signals.wordpiece import WordPiece

NAME: Final = "static"
VERSION: Final = 1
_COMMON_WEIGHT: Final = 0.1
"""Inverse document frequency of what stands in every text."""


@dataclass(frozen=True)
class StaticSettings:
    """Settings; the defaults were chosen by cross-validation on public routing sets (docs/signals.md)."""

    reweigh: bool = True
    """Whether tokens count by their inverse document frequency among the texts fitted on."""
    structure_weight: float = 0.2
    """Scale of each standardised structural feature beside the unit-length topic."""
    head_bytes: int = 1024
    """Bytes read from the start."""
    tail_bytes: int = 1024
    """Bytes read from the end."""
    table_sha256: str = ""
    """Of the table of token vectors; filled when fitting, checked when loading."""
    version: int = VERSION
    """Of the way texts are read; vectors of two versions cannot be compared."""


class StaticEncoder:
    """A fitted encoder; see the module."""

    def __init__(self, settings: StaticSettings, arrays: Mapping[str, Array], table: StaticTable) -> None:
        self._settings = settings
        self._arrays = dict(arrays)
        self._table = table
        self._weight_V = np.asarray(arrays["weight_V"], dtype=np.float32) if settings.reweigh else None
        self._structure = ScaledStructure(arrays, settings.structure_weight)

    @property
    def dimension(self) -> int:
        """Length of every vector: topic, then structural features."""
        return self.topic_dimension + len(FEATURES)

    @property
    def topic_dimension(self) -> int:
        """Length of the topic alone."""
        return self._table.dimension

    def topic(self, text: str) -> Vector:
        """The first block: what the text is about."""
        cut = head_and_tail(text, self._settings.head_bytes, self._settings.tail_bytes)
        return self.topic_of(self._table.tokens(cut))

    def topic_of(self, tokens_T: NDArray[np.intp]) -> Vector:
        """As `topic`, of the numbers of the text's tokens."""
        return self._table.topic(tokens_T, self._weight_V)

    @property
    def wordpiece(self) -> WordPiece:
        """What numbers the tokens."""
        return self._table.wordpiece

    def encode(self, text: str) -> Vector:
        """Vector of one text."""
        return np.concatenate((self.topic(text), self._structure.of(text.encode("utf-8", "replace"))))

    def encode_batch(self, texts: Sequence[str]) -> Matrix:
        """Vectors of many texts."""
        matrix_QD = np.empty((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            matrix_QD[row] = self.encode(text)
        return matrix_QD

    def state(self) -> EncoderState:
        """What to save; the table stays in the package."""
        return EncoderState(NAME, asdict(self._settings), self._arrays)


def fit(texts: Sequence[str], parameters: Mapping[str, Scalar]) -> StaticEncoder:
    """Learn document frequencies and feature scales from texts."""
    table = shipped_table()
    settings = replace(_settings(parameters), table_sha256=table.digest, version=VERSION)
    arrays = ScaledStructure.fit([text.encode("utf-8", "replace") for text in texts])
    if settings.reweigh:
        arrays["weight_V"] = _inverse_document_frequency(texts, settings, table)
    return StaticEncoder(settings, arrays, table)


def restore(state: EncoderState) -> StaticEncoder:
    """Rebuild from saved state, on the shipped table."""
    table, settings = shipped_table(), _settings(state.parameters)
    if settings.version != VERSION or settings.table_sha256 != table.digest:
        raise DataError(f"encoder {NAME}: saved with another version or table of token vectors; fit again")
    ScaledStructure.check(f"encoder {NAME}", state.arrays)
    weight = state.arrays.get("weight_V")
    if settings.reweigh and (weight is None or weight.shape != (len(table.rows_VD),)):
        raise DataError(f"encoder {NAME}: array 'weight_V' is missing or misshapen; fit again")
    return StaticEncoder(settings, state.arrays, table)


KIND: Final = EncoderKind(fit=fit, restore=restore)


def _settings(parameters: Mapping[str, Scalar]) -> StaticSettings:
    settings = read_settings(f"encoder {NAME}", StaticSettings(), parameters)
    if settings.structure_weight < 0 or settings.head_bytes < 1 or settings.tail_bytes < 0:
        raise ConfigError(f"encoder {NAME}: structure_weight, head_bytes and tail_bytes cannot be negative")
    return settings


def _inverse_document_frequency(texts: Sequence[str], settings: StaticSettings, table: StaticTable) -> Array:
    frequency_V = np.zeros(len(table.rows_VD))
    for text in texts:
        cut = head_and_tail(text, settings.head_bytes, settings.tail_bytes)
        frequency_V[np.unique(table.tokens(cut))] += 1
    return (np.log((1 + len(texts)) / (1 + frequency_V)) + _COMMON_WEIGHT).astype(np.float32)
