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
    # With a blank before it, every run has a byte before its first.
    class_T = _CLASS_256.take(np.frombuffer(b" " + raw, dtype=np.uint8))
    count_C = np.bincount(class_T, minlength=len(_BYTE_CLASSES) + 1)[:-1]
    count_C[_BLANK] -= 1
    words, numbers = _runs(class_T >= _SPACES), _runs(class_T == _DIGIT)
    features = np.empty(len(FEATURES), dtype=np.float32)
    features[0], features[1], features[2] = len(raw), words, numbers
    features[3:-2] = count_C
    features[-2] = len(raw) / max(words, 1)
    np.log1p(features[:-1], out=features[:-1])
    features[-1] = count_C[_DIGIT] / max(len(raw), 1)
    return features


def _runs(inside_T: NDArray[np.bool_]) -> int:
    """Number of runs of True after the first place, counted where they begin."""
    return int(np.count_nonzero(inside_T[1:] > inside_T[:-1]))
