"""An encoder that reads every text once, for routers that are fitted and tested on the same texts one after the other.

Vectors are those of the encoder inside, which the same text gives anywhere by contract; single texts are never
remembered, so that what a decision takes is measured in full.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thinkroute.signals.base import Encoder, EncoderState, Matrix, Vector


class RememberingEncoder:
    """An encoder; see the module."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._known: dict[str, Vector] = {}

    @property
    def dimension(self) -> int:
        """Length of every vector."""
        return self._encoder.dimension

    def encode(self, text: str) -> Vector:
        """Vector of one text, computed."""
        return self._encoder.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> Matrix:
        """Vectors of many texts; only those not asked for before are computed."""
        new = list(dict.fromkeys(text for text in texts if text not in self._known))
        if new:
            self._known |= zip(new, self._encoder.encode_batch(new), strict=True)
        matrix_QD = np.empty((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            matrix_QD[row] = self._known[text]
        return matrix_QD

    def state(self) -> EncoderState:
        """What to save: the encoder inside."""
        return self._encoder.state()
