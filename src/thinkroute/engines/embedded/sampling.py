"""From logits to the next tokens: greedy or sampled, with log-probabilities on request. Pure numpy.

Sampling draws by inverting the cumulative distribution with one uniform number per token from the row's own
generator, so a row's tokens do not depend on who shares its batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one row chooses its tokens."""

    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    seed: int | None = None
    """None draws a fresh seed."""
    logprobs: bool = False
    top_logprobs: int = 0


class RowSampler:
    """A row's settings and its random state."""

    __slots__ = ("_drawn", "_generator", "sampling", "special")

    def __init__(self, sampling: Sampling, drawn: int = 0) -> None:
        """`drawn` random numbers were used up by earlier calls that wrote the same message."""
        self.sampling = sampling
        self._drawn = drawn
        self.special = sampling.temperature > 0 or sampling.logprobs
        """Whether there is more to do than to take the most likely token."""
        self._generator: np.random.Generator | None = None

    def draw_uniform(self) -> float:
        """The next random number of this row, in [0, 1)."""
        if self._generator is None:  # most rows are greedy, and seeding takes longer than a token
            self._generator = np.random.Generator(np.random.PCG64(self.sampling.seed).advance(self._drawn))
        return self._generator.random()


@dataclass(frozen=True, slots=True)
class Choice:
    """One chosen token. `logprob` is of the distribution it was drawn from; for greedy, of the model's own."""

    token_id: int
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()


def _log_softmax(logits_BV: Doubles) -> Doubles:
    shifted = logits_BV - logits_BV.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _truncate(logprobs_V: Doubles, sampling: Sampling) -> Doubles:
    """Keep the `top_k` most likely tokens, then the smallest set of them holding `top_p`; renormalise."""
    order = np.argsort(-logprobs_V, kind="stable")
    kept = order[: sampling.top_k or None]
    probabilities = np.exp(logprobs_V[kept])
    reached = np.cumsum(probabilities / probabilities.sum())
    count = int(np.searchsorted(reached, sampling.top_p, side="left")) + 1
    kept = kept[:count]
    truncated = np.full_like(logprobs_V, -np.inf)
    truncated[kept] = logprobs_V[kept] - np.log(np.exp(logprobs_V[kept]).sum())
    return truncated


def _draw(cumulative_V: Doubles, uniform: float) -> int:
    total = float(cumulative_V[-1])
    drawn = int(np.searchsorted(cumulative_V, uniform * total, side="right"))
    # Rounding may lead past the end; then it is the last token that has any mass.
    return drawn if drawn < len(cumulative_V) else int(np.searchsorted(cumulative_V, total))


def _describe(token_id: int, logprobs_V: Doubles, sampling: Sampling) -> Choice:
    if not sampling.logprobs:
        return Choice(token_id)
    if not sampling.top_logprobs:
        return Choice(token_id, float(logprobs_V[token_id]))
    best = np.argsort(-logprobs_V, kind="stable")[: sampling.top_logprobs]
    top = tuple((int(index), float(logprobs_V[index])) for index in best if np.isfinite(logprobs_V[index]))
    return Choice(token_id, float(logprobs_V[token_id]), top)


def choose(logits_BV: Floats, samplers: Mapping[int, RowSampler]) -> tuple[Integers, dict[int, Choice]]:
    """The next token of every row, and the choices of the rows in `samplers`; all other rows are greedy."""
    ids_B = logits_BV.argmax(axis=-1)
    if not samplers:
        return ids_B, {}
    temperatures = np.array([sampler.sampling.temperature or 1.0 for sampler in samplers.values()])
    logprobs_BV = _log_softmax(logits_BV[list(samplers)].astype(np.float64) / temperatures[:, None])
    cumulative_BV = np.exp(logprobs_BV).cumsum(axis=-1)
    choices: dict[int, Choice] = {}
    for place, (row, sampler) in enumerate(samplers.items()):
        sampling, logprobs_V, cumulative_V = sampler.sampling, logprobs_BV[place], cumulative_BV[place]
        if sampling.temperature > 0:
            if sampling.top_k or sampling.top_p < 1:
                logprobs_V = _truncate(logprobs_V, sampling)
                cumulative_V = np.exp(logprobs_V).cumsum()
            ids_B[row] = _draw(cumulative_V, sampler.draw_uniform())
        choices[row] = _describe(int(ids_B[row]), logprobs_V, sampling)
    return ids_B, choices
