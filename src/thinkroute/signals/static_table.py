"""A table of token vectors: the artefact that the `static` encoder and the heads read with.

Owns the file (a vocabulary, int8 rows, one scale per row) and the mean of the rows of a text's tokens. What a token
weighs is part of its row: common tokens have short ones. The shipped table is made by `thinkroute signals distil`.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from thinkroute.errors import DataError
from thinkroute.signals.base import Matrix, Vector
from thinkroute.signals.wordpiece import WordPiece

TABLE_FILE: Final = "static.npz"
CARD_FILE: Final = "static.json"
_MOST: Final = 127


@dataclass(frozen=True)
class StaticTable:
    """Token vectors and the vocabulary that numbers them. Never changes, so any number of encoders share one."""

    digest: str
    """SHA-256 of the file, by which a saved encoder knows its table."""
    wordpiece: WordPiece
    rows_VD: Matrix

    @property
    def dimension(self) -> int:
        """Length D of a token vector."""
        return self.rows_VD.shape[1]

    def tokens(self, raw: bytes) -> NDArray[np.intp]:
        """Numbers of a UTF-8 text's tokens, shape (T,)."""
        return self.wordpiece.pieces(raw)

    def topic(self, tokens_T: NDArray[np.intp], weight_V: Vector | None = None) -> Vector:
        """Weighted sum of token vectors scaled to unit length, shape (D,); zeros where there is no token."""
        rows_TD = self.rows_VD.take(tokens_T, axis=0)
        return unit(rows_TD.sum(axis=0) if weight_V is None else weight_V.take(tokens_T) @ rows_TD)


def unit(vector: Vector) -> Vector:
    """The vector at length 1, in place; zeros stay zeros."""
    length = float(np.sqrt(vector @ vector))
    if length > 0:
        vector /= length
    return vector


def pack(vocabulary: list[str], rows_VD: Matrix) -> bytes:
    """The table's file: rows rounded to 8 bits of the largest number in each."""
    scale_V = np.maximum(np.abs(rows_VD).max(axis=1), 1e-12) / _MOST
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        vocabulary=np.frombuffer("\n".join(vocabulary).encode(), dtype=np.uint8),
        rows_VD=np.rint(rows_VD / scale_V[:, None]).astype(np.int8),
        scale_V=scale_V.astype(np.float32),
    )
    return buffer.getvalue()


def unpack(raw: bytes) -> StaticTable:
    """A table from its file.

    Raises:
        DataError: it is damaged.
    """
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as archive:
            vocabulary = archive["vocabulary"].tobytes().decode("utf-8").split("\n")
            rows_VD = archive["rows_VD"].astype(np.float32) * archive["scale_V"][:, None]
    except (ValueError, KeyError, BadZipFile, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"the table of token vectors is damaged: {error}") from error
    if len(vocabulary) != len(rows_VD):
        raise DataError(f"the table of token vectors has {len(rows_VD)} rows for {len(vocabulary)} tokens")
    return StaticTable(hashlib.sha256(raw).hexdigest(), WordPiece(vocabulary), rows_VD)


@cache
def shipped_table() -> StaticTable:
    """The table that comes with the package, read once per process."""
    return unpack((files("thinkroute.signals") / "shipped" / TABLE_FILE).read_bytes())
