"""Adam for the small heads: minibatches, decoupled weight decay, a cosine step size. numpy, deterministic.

Owns the loop; a head owns its loss and its gradient.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from thinkroute.routers.clusters import IndexArray
from thinkroute.routers.table import FloatArray
from thinkroute.signals.base import Matrix

Weights: TypeAlias = dict[str, Matrix]
Gradients: TypeAlias = Mapping[str, NDArray[np.floating]]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    epochs: int
    batch: int = 128
    step_size: float = 3e-3
    decay: float = 1e-2
    """Decoupled weight decay, in units of the step size."""


def descend(
    weights: Weights,
    gradient: Callable[[Weights, IndexArray, np.random.Generator], Gradients],
    rows: int,
    schedule: Schedule,
    seed: int,
) -> Weights:
    """Trained weights.

    Args:
        weights: Where to start.
        gradient: Weights, rows of the batch and random numbers to the loss's gradient by weight.
        rows: Training rows there are.
        schedule: How long and how fast.
        seed: Of the order of rows and of whatever noise the gradient draws.
    """
    rng = np.random.default_rng(seed)
    weights = {name: weight.copy() for name, weight in weights.items()}
    first = {name: np.zeros_like(weight) for name, weight in weights.items()}
    second = {name: np.zeros_like(weight) for name, weight in weights.items()}
    total = schedule.epochs * -(-rows // schedule.batch)
    for step, batch in enumerate(_batches(rows, schedule, rng)):
        slopes = gradient(weights, batch, rng)
        rate = schedule.step_size * 0.5 * (1.0 + np.cos(np.pi * step / total))
        correction = rate * np.sqrt(1.0 - 0.999 ** (step + 1)) / (1.0 - 0.9 ** (step + 1))
        for name, slope in slopes.items():
            first[name] += 0.1 * (slope - first[name])
            second[name] += 0.001 * (slope**2 - second[name])
            weights[name] *= np.float32(1.0 - rate * schedule.decay)
            weights[name] -= np.float32(correction) * first[name] / (np.sqrt(second[name]) + np.float32(1e-8))
    return weights


def _batches(rows: int, schedule: Schedule, rng: np.random.Generator) -> Iterator[IndexArray]:
    for _ in range(schedule.epochs):
        order = np.asarray(rng.permutation(rows), dtype=np.intp)
        for start in range(0, rows, schedule.batch):
            yield order[start : start + schedule.batch]


def named_start(arms: Sequence[str], size: int) -> Matrix:
    """A random vector for every arm, drawn from its name: the order of arms and their company do not matter."""
    rows = [
        np.random.default_rng(
            int.from_bytes(hashlib.sha256(arm.encode("utf-8", "surrogatepass")).digest()[:8], "little")
        ).standard_normal(size)
        for arm in arms
    ]
    return np.array(rows, dtype=np.float32).reshape(len(arms), size)


def seen_and_filled(quality_NA: FloatArray) -> tuple[Matrix, Matrix]:
    """1 for measured cells, and the cells with 0 for missing ones."""
    return (~np.isnan(quality_NA)).astype(np.float32), np.nan_to_num(quality_NA).astype(np.float32)
