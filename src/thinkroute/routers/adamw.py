"""AdamW on numpy arrays (Loshchilov & Hutter, arXiv 1711.05101), for models small enough not to need torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from thinkroute.routers.table import FloatArray

_FIRST, _SECOND, _TINY = 0.9, 0.999, 1e-8


class AdamW:
    """Changes the arrays it was given, in place. The learning rate falls to zero in a line over `steps`."""

    def __init__(
        self, arrays: Mapping[str, FloatArray], *, learning_rate: float, weight_decay: float, steps: int
    ) -> None:
        self._arrays = dict(arrays)
        self._rate, self._decay, self._steps = learning_rate, weight_decay, steps
        self._first = {name: np.zeros_like(array) for name, array in arrays.items()}
        self._second = {name: np.zeros_like(array) for name, array in arrays.items()}
        self._done = 0

    def step(self, gradients: Mapping[str, FloatArray]) -> None:
        """One step against the gradients, one per array."""
        rate = self._rate * (1.0 - self._done / self._steps)
        self._done += 1
        for name, array in self._arrays.items():
            gradient, first, second = gradients[name], self._first[name], self._second[name]
            first += (1.0 - _FIRST) * (gradient - first)
            second += (1.0 - _SECOND) * (gradient**2 - second)
            unbiased = first / (1.0 - _FIRST**self._done)
            scale = np.sqrt(second / (1.0 - _SECOND**self._done)) + _TINY
            np.subtract(array, rate * (unbiased / scale + self._decay * array), out=array)
