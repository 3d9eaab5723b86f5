"""Logistic heads on the static table: the probability of each label, and whether the text is familiar at all.

Owns the features, the heads' file, and reading one text with all heads at once. The features of a text z are its topic
and scaled structure, and its likeness exp(−γ ‖z − m‖²) to each of a thousand landmarks m drawn from the training texts
(Nyström, Williams and Seeger 2000): a line over both bends where the training texts ask for it. For label l:
P = sigmoid(a_l (w_l · [z, likeness] + b_l) + c_l), a and c by Platt scaling on predictions for texts left out.

A text is unfamiliar when it has no token, or when its leverage zᵀ(ZᵀZ + λI)⁻¹z lies beyond nearly all training texts:
there the heads extrapolate, and their probability means nothing.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from zipfile import BadZipFile

import numpy as np

from thinkroute.errors import DataError
from thinkroute.signals.base import Array, Matrix, Vector
from thinkroute.signals.cut import head_and_tail
from thinkroute.signals.static_table import StaticTable
from thinkroute.signals.structure import FEATURES, ScaledStructure

HEAD_BYTES: Final = 1024
TAIL_BYTES: Final = 1024
_STRUCTURE_WEIGHT: Final = 0.2
_NARROWNESS: Final = 0.6
"""γ."""


@dataclass(frozen=True)
class Read:
    """What the heads say of one text."""

    probability_L: Vector
    """P of each label, calibrated."""
    familiar: bool
    """False where the probabilities mean nothing."""


@dataclass(frozen=True)
class HeadArrays:
    """Numbers of the heads; the names are those of the file."""

    weight_GL: Matrix
    """Slopes over features, then over likenesses; Platt's included."""
    bias_L: Vector
    landmark_MF: Matrix
    inverse_FF: Matrix
    """(ZᵀZ + λI)⁻¹ of the training texts, for the leverage."""
    leverage_limit: Vector
    """Shape (1,)."""
    structure_mean: Vector
    structure_std: Vector


class Heads:
    """Fitted heads over one table. Never change."""

    def __init__(self, arrays: HeadArrays, table: StaticTable) -> None:
        self.arrays = arrays
        self._features = Features(table, vars(arrays))
        self._landmarks = Landmarks(arrays.landmark_MF)
        self._limit = float(arrays.leverage_limit[0])

    def read(self, text: str) -> Read:
        """All heads on one text."""
        feature_F, tokens = self._features.of(text)
        logit_L = np.concatenate((feature_F, self._landmarks.of(feature_F))) @ self.arrays.weight_GL
        logit_L += self.arrays.bias_L
        leverage = float(feature_F @ self.arrays.inverse_FF @ feature_F)
        probability_L = (0.5 * (1.0 + np.tanh(0.5 * logit_L))).astype(np.float32, copy=False)
        return Read(probability_L, tokens > 0 and leverage <= self._limit)


class Features:
    """Text to the numbers heads read: topic and scaled structure."""

    def __init__(self, table: StaticTable, structure: Mapping[str, Array]) -> None:
        self._table = table
        self._structure = ScaledStructure(structure, _STRUCTURE_WEIGHT)

    @property
    def dimension(self) -> int:
        """Number F of features."""
        return self._table.dimension + len(FEATURES)

    def of(self, text: str) -> tuple[Vector, int]:
        """Features of one text, shape (F,), and how many tokens were read."""
        tokens_T = self._table.tokens(head_and_tail(text, HEAD_BYTES, TAIL_BYTES))
        scaled = self._structure.of(text.encode("utf-8", "replace"))
        return np.concatenate((self._table.topic(tokens_T), scaled)), len(tokens_T)

    def batch(self, texts: Sequence[str]) -> Matrix:
        """Features of many texts, shape (Q, F)."""
        matrix_QF = np.empty((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            matrix_QF[row] = self.of(text)[0]
        return matrix_QF


class Landmarks:
    """Likeness of texts to texts of the training set."""

    def __init__(self, landmark_MF: Matrix) -> None:
        self._landmark_FM = np.ascontiguousarray(landmark_MF.T)
        self._square_M = (landmark_MF**2).sum(axis=1)

    def of(self, feature_F: Vector) -> Vector:
        """Likeness of one text to every landmark, shape (M,)."""
        far_M = feature_F @ self._landmark_FM
        far_M *= 2.0
        far_M -= self._square_M
        far_M -= feature_F @ feature_F
        far_M *= np.float32(_NARROWNESS)
        return np.exp(far_M, out=far_M)

    def batch(self, feature_QF: Matrix) -> Matrix:
        """Likeness of many texts, shape (Q, M)."""
        far_QM = 2.0 * feature_QF @ self._landmark_FM - self._square_M - (feature_QF**2).sum(axis=1)[:, None]
        return np.exp(np.float32(_NARROWNESS) * far_QM)


def pack_heads(arrays: HeadArrays) -> bytes:
    """The heads' file."""
    buffer = io.BytesIO()
    # Landmarks may be rounded: they only mark places. They are rounded before the heads are fitted.
    rounded = {**vars(arrays), "landmark_MF": arrays.landmark_MF.astype(np.float16)}
    np.savez_compressed(buffer, allow_pickle=False, **rounded)
    return buffer.getvalue()


def unpack_heads(raw: bytes) -> HeadArrays:
    """Heads from their file.

    Raises:
        DataError: it is damaged.
    """
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as archive:
            return HeadArrays(
                **{name: archive[name].astype(np.float32) for name in HeadArrays.__annotations__}
            )
    except (ValueError, KeyError, BadZipFile, EOFError) as error:
        raise DataError(f"the signal heads are damaged: {error}") from error
