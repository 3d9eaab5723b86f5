"""Structure of a text as a few numbers: length, digits, operators, clauses, code and mathematics marks.

Owns what can be counted without a vocabulary. All counts come from one histogram of the UTF-8 bytes plus the
starts of runs, so the cost is a few microseconds and grows with the length only through that histogram.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from thinkroute.signals.base import Vector

_BYTE_CLASSES: Final[tuple[tuple[str, bytes], ...]] = (
    ("digit_bytes", b"0123456789"),
    ("operators", b"+-*/=<>%"),
    ("clause_marks", b",;:"),
    ("sentence_marks", b".!"),
    ("question_marks", b"?"),
    ("line_breaks", b"\n"),
    ("code_marks", b"{}()[]`_;#"),
    ("math_marks", b"$\\^"),
    ("option_marks", b"|"),
    ("upper_case", bytes(range(65, 91))),
    ("non_ascii", bytes(range(128, 256))),
)
FEATURES: Final[tuple[str, ...]] = (
    "bytes",
    "words",
    "numbers",
    *(name for name, _ in _BYTE_CLASSES),
    "bytes_per_word",
    "digit_share",
)
"""Names of the features, in order. Counts are log1p, shares are plain."""

_DIGIT, _SPACE = 1, 2


def _class_matrix() -> NDArray[np.float64]:
    matrix = np.zeros((256, len(_BYTE_CLASSES)))
    for column, (_, members) in enumerate(_BYTE_CLASSES):
        matrix[list(members), column] = 1.0
    return matrix


def _kind_of_byte() -> NDArray[np.uint8]:
    kind = np.zeros(256, dtype=np.uint8)
    kind[list(b"0123456789")] = _DIGIT
    kind[list(b" \t\r\n")] = _SPACE
    return kind


_CLASSES_256C: Final = _class_matrix()
_KIND_256: Final = _kind_of_byte()


def structure(raw: bytes) -> Vector:
    """Structural features of a UTF-8 text, shape (len(FEATURES),).

    Words are runs of anything but white space, numbers are runs of digits.
    """
    byte_T = np.frombuffer(raw, dtype=np.uint8)
    counts_C = np.bincount(byte_T, minlength=256) @ _CLASSES_256C
    kind_T = _KIND_256[byte_T]
    ends_T = np.empty(len(raw), dtype=np.uint8)
    ends_T[-1:] = _SPACE
    ends_T[:-1] = kind_T[1:]
    # A run is counted at its last byte.
    words = np.count_nonzero((kind_T != _SPACE) & (ends_T == _SPACE))
    numbers = np.count_nonzero((kind_T == _DIGIT) & (ends_T != _DIGIT))
    features = np.empty(len(FEATURES), dtype=np.float32)
    features[0], features[1], features[2] = len(raw), words, numbers
    features[3:-2] = counts_C
    np.log1p(features[:-2], out=features[:-2])
    features[-2] = np.log1p(len(raw) / max(words, 1))
    features[-1] = counts_C[0] / max(len(raw), 1)
    return features
