"""From logits to the next tokens: greedy or sampled, with log-probabilities on request. Pure numpy.

Sampling draws by inverting the cumulative distribution with one uniform number per token from the row's own
generator, so a row's tokens do not depend on who shares its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


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


@dataclass(slots=True)
class RowSampler:
    """A row's settings and its random state."""

    sampling: Sampling
    generator: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.generator = np.random.Generator(np.random.PCG64(self.sampling.seed))


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


def _draw(logprobs_V: Doubles, generator: np.random.Generator) -> int:
    cumulative = np.cumsum(np.exp(logprobs_V))
    drawn = int(np.searchsorted(cumulative, generator.random() * float(cumulative[-1]), side="right"))
    return min(drawn, int(np.flatnonzero(np.isfinite(logprobs_V))[-1]))


def _describe(token_id: int, logprobs_V: Doubles, sampling: Sampling) -> Choice:
    if not sampling.logprobs:
        return Choice(token_id)
    best = np.argsort(-logprobs_V, kind="stable")[: sampling.top_logprobs]
    top = tuple((int(index), float(logprobs_V[index])) for index in best if np.isfinite(logprobs_V[index]))
    return Choice(token_id, float(logprobs_V[token_id]), top)


def choose(logits_BV: Floats, rows: Sequence[RowSampler]) -> list[Choice]:
    """Choose one token for each row of logits."""
    greedy = logits_BV.argmax(axis=-1)
    choices = [Choice(int(token_id)) for token_id in greedy]
    special = [
        index for index, row in enumerate(rows) if row.sampling.temperature > 0 or row.sampling.logprobs
    ]
    if not special:
        return choices
    temperatures = np.array([rows[index].sampling.temperature or 1.0 for index in special])
    logprobs_BV = _log_softmax(logits_BV[special].astype(np.float64) / temperatures[:, None])
    for index, logprobs_V in zip(special, logprobs_BV, strict=True):
        sampling, token_id = rows[index].sampling, int(greedy[index])
        if sampling.temperature > 0:
            if sampling.top_k or sampling.top_p < 1:
                logprobs_V = _truncate(logprobs_V, sampling)  # noqa: PLW2901
            token_id = _draw(logprobs_V, rows[index].generator)
        choices[index] = _describe(token_id, logprobs_V, sampling)
    return choices
