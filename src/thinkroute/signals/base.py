"""The encoder contract: text in, float32 vector out.

Owns the seam between whatever turns text into numbers and whoever needs those numbers. An encoder is fitted on
texts alone, never on outcomes, so it cannot leak labels; once fitted it never changes. The same text gives the
same vector in every process, on its own or in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Scalar: TypeAlias = str | int | float | bool
Vector: TypeAlias = NDArray[np.float32]
Matrix: TypeAlias = NDArray[np.float32]
Array: TypeAlias = NDArray[np.generic]


@dataclass(frozen=True)
class EncoderState:
    """Everything needed to rebuild a fitted encoder without its training texts."""

    name: str
    """Name in `thinkroute.signals.ENCODERS`."""
    parameters: Mapping[str, Scalar]
    """Settings a human would read."""
    arrays: Mapping[str, Array] = field(default_factory=dict[str, Array])
    """Fitted numbers."""


class Encoder(Protocol):
    """A fitted encoder."""

    @property
    def dimension(self) -> int:
        """Length D of every vector."""
        ...

    def encode(self, text: str) -> Vector:
        """Vector of one text, shape (D,)."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> Matrix:
        """Vectors of many texts, shape (Q, D); row i equals `encode(texts[i])`."""
        ...

    def state(self) -> EncoderState:
        """What to save."""
        ...


@dataclass(frozen=True)
class EncoderKind:
    """How to make encoders of one kind."""

    fit: Callable[[Sequence[str], Mapping[str, Scalar]], Encoder]
    """Texts and settings to a fitted encoder. Raises `ConfigError` on an unknown or impossible setting."""
    restore: Callable[[EncoderState], Encoder]
    """A fitted encoder from what `state()` gave. Raises `DataError` when arrays are missing or misshapen."""
