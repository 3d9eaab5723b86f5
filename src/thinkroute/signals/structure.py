"""Structure of a text as a few numbers: length, digits, operators, clauses, code and mathematics marks.

Owns what can be counted without a vocabulary, and the scale on which encoders put it beside their other numbers.
All counts come from one histogram of the UTF-8 bytes plus the starts of runs, so the cost is a few microseconds.
Of texts over MOST_BYTES the head and the tail are counted and the counts scaled up: the cost is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from thinkroute.errors import DataError
from thinkroute.signals.base import Array, Vector

MOST_BYTES: Final = 65536
_LIMIT: Final = 4.0
"""Standardised features are cut here: one 100 kB prompt must not outweigh everything else."""
_BYTE_CLASSES: Final[tuple[tuple[str, bytes], ...]] = (
    ("blanks", b" \t\r"),
    ("line_breaks", b"\n"),
    ("digit_bytes", b"0123456789"),
    ("operators", b"+-*/=<>%"),
    ("clause_marks", b",:"),
    ("sentence_marks", b".!"),
    ("question_marks", b"?"),
    ("code_marks", b"{}()[]`_;#"),
    ("math_marks", b"$\\^"),
    ("option_marks", b"|"),
    ("upper_case", bytes(range(65, 91))),
    ("non_ascii", bytes(range(128, 256))),
)
"""Disjoint; white space comes first, then digits, so that one comparison tells each."""
_BLANK, _SPACES, _DIGIT = 0, 2, 2
FEATURES: Final[tuple[str, ...]] = (
    "bytes",
    "words",
    "numbers",
    *(name for name, _ in _BYTE_CLASSES),
    "bytes_per_word",
    "digit_share",
)
"""Names of the features, in order. Counts are log1p, shares are plain."""


def _class_of_byte() -> NDArray[np.uint8]:
    classes = np.full(256, len(_BYTE_CLASSES), dtype=np.uint8)
    for number, (_, members) in enumerate(_BYTE_CLASSES):
        classes[list(members)] = number
    return classes


_CLASS_256: Final = _class_of_byte()


def structure(raw: bytes) -> Vector:
    """Structural features of a UTF-8 text, shape (len(FEATURES),).

    Words are runs of anything but white space, numbers are runs of digits.
    """
    size = len(raw)
    if size > MOST_BYTES:
        raw = raw[: MOST_BYTES // 2] + raw[size - MOST_BYTES // 2 :]
    # With a blank before it, every run has a byte before its first.
    class_T = _CLASS_256.take(np.frombuffer(b" " + raw, dtype=np.uint8))
    count_C: list[int] = np.bincount(class_T, minlength=len(_BYTE_CLASSES) + 1).tolist()
    count_C[_BLANK] -= 1
    words, numbers = _runs(class_T >= _SPACES), _runs(class_T == _DIGIT)
    scale = size / len(raw) if raw else 1.0
    # Plain numbers: for so few, each call of numpy would cost more than all of them.
    features = [math.log1p(count * scale) for count in (len(raw), words, numbers, *count_C[:-1])]
    features += [math.log1p(len(raw) / max(words, 1)), count_C[_DIGIT] / max(len(raw), 1)]
    return np.array(features, dtype=np.float32)


def _runs(inside_T: NDArray[np.bool_]) -> int:
    """Number of runs of True after the first place, counted where they begin."""
    return int(np.count_nonzero(inside_T[1:] > inside_T[:-1]))


class ScaledStructure:
    """Structural features standardised over training texts, cut, and scaled by a weight."""

    def __init__(self, arrays: Mapping[str, Array], weight: float) -> None:
        """`arrays` as `fit` gives them."""
        self._mean = np.asarray(arrays["structure_mean"], dtype=np.float32)
        spread = np.asarray(arrays["structure_std"], dtype=np.float32)
        self._scale = (weight / np.where(spread > 0, spread, 1.0)).astype(np.float32)
        self._limit = np.float32(_LIMIT * weight)

    @staticmethod
    def fit(raws: Sequence[bytes]) -> dict[str, Array]:
        """Mean and spread of the features over UTF-8 texts."""
        features_QF = np.array([structure(raw) for raw in raws], dtype=np.float64).reshape(-1, len(FEATURES))
        return {
            "structure_mean": features_QF.mean(axis=0) if raws else np.zeros(len(FEATURES)),
            "structure_std": features_QF.std(axis=0) if raws else np.ones(len(FEATURES)),
        }

    @staticmethod
    def check(owner: str, arrays: Mapping[str, Array]) -> None:
        """Refuse saved arrays that are missing or misshapen.

        Raises:
            DataError: naming the array.
        """
        for name in ("structure_mean", "structure_std"):
            if name not in arrays or arrays[name].shape != (len(FEATURES),):
                raise DataError(
                    f"{owner}: array {name!r} is missing or not of shape {(len(FEATURES),)}; fit again"
                )

    def of(self, raw: bytes) -> Vector:
        """Scaled features of a UTF-8 text, shape (len(FEATURES),)."""
        scaled = (structure(raw) - self._mean) * self._scale
        np.maximum(scaled, -self._limit, out=scaled)
        np.minimum(scaled, self._limit, out=scaled)
        return scaled
