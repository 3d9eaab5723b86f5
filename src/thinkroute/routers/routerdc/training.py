"""Training RouterDC: what one optimisation step sees, and the two things that can be trained.

`train_projection` learns a linear map of frozen vectors, in numpy; `fine_tune` a whole Hugging Face encoder, on torch.
Both learn one vector per arm. Shape letters: R rows, B batch, N vectors of a batch (rows, partners, others), A arms,
D encoder dimension, E dimension of the shared space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from thinkroute.routers.adamw import AdamW
from thinkroute.routers.encoder_regressor.network import load_network
from thinkroute.routers.encoder_regressor.text import TextGraph
from thinkroute.routers.routerdc.losses import Picks, Weights, clusters, dual_loss, partners, pick, unit
from thinkroute.routers.routerdc.settings import RouterDcSettings
from thinkroute.routers.table import FloatArray
from thinkroute.routers.training_rows import IntArray
from thinkroute.signals.base import Matrix
from thinkroute.signals.extras import optional

_ARM_SPREAD: Final = 0.78
"""Standard deviation of the arms' first vectors, as in the paper's code."""


@dataclass(frozen=True)
class Member:
    """A trained map of vectors and the arms' vectors."""

    projection_DE: FloatArray
    shift_E: FloatArray
    arm_AE: FloatArray
    """Of unit length."""


@dataclass(frozen=True)
class Examples:
    """Rows to learn from."""

    quality_RA: FloatArray
    vector_RD: Matrix
    """Of any encoder; the clusters of the second loss are made of them."""
    tasks: Sequence[str | None]
    """Read only when batches are balanced over tasks."""

    def take(self, rows: IntArray) -> Examples:
        """These rows."""
        return Examples(self.quality_RA[rows], self.vector_RD[rows], [self.tasks[int(row)] for row in rows])


@dataclass(frozen=True)
class Batch:
    """Rows whose vectors a step needs, as `dual_loss` wants them, and the arms that take part."""

    row_N: IntArray
    picks: Picks
    others: int


class Course:
    """Draws batches."""

    def __init__(self, examples: Examples, settings: RouterDcSettings, seed: int) -> None:
        self._settings, self._quality_RA = settings, examples.quality_RA
        self._rng = np.random.default_rng(seed)
        self._row_L = _rows_to_learn_from(examples.quality_RA, keep_all=settings.ties == "column")
        if self:
            self._cluster_L = clusters(
                examples.vector_RD[self._row_L].astype(np.float64), settings.clusters, self._rng
            )
            tasks = [examples.tasks[int(row)] for row in self._row_L]
            self._chance_L = _chances(tasks, balanced=settings.balance_tasks)

    def __bool__(self) -> bool:
        """Whether there is anything to learn from."""
        return bool(self._row_L.size)

    def draw(self) -> Batch:
        """The next batch."""
        settings, rng = self._settings, self._rng
        place_B = rng.choice(len(self._row_L), size=settings.batch_size, p=self._chance_L)
        picks = pick(
            self._quality_RA[self._row_L[place_B]],
            settings.positives,
            settings.negatives,
            None if settings.ties == "column" else rng,
        )
        drawn = None
        if settings.sample_loss_weight:
            drawn = partners(place_B, self._cluster_L, settings.other_samples, rng)
        if drawn is None:
            return Batch(self._row_L[place_B], picks, 0)
        same_B, other_BH = drawn
        place_N = np.concatenate([place_B, same_B, other_BH.reshape(-1)])
        return Batch(self._row_L[place_N], picks, other_BH.shape[1])


def train_projection(examples: Examples, settings: RouterDcSettings, seed: int) -> Member:
    """Learn a linear map of frozen vectors and the arms' vectors."""
    course, rng = Course(examples, settings, seed), np.random.default_rng((seed, 1))
    vector_RD, width = examples.vector_RD.astype(np.float64), settings.dimension
    size, arms = vector_RD.shape[1], examples.quality_RA.shape[1]
    learned = {
        "projection_DE": rng.standard_normal((size, width)) / np.sqrt(size),
        "shift_E": np.zeros(width),
        "arm_AE": _ARM_SPREAD * rng.standard_normal((arms, width)),
    }
    optimiser = AdamW(
        learned,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        steps=settings.steps,
    )
    weights = Weights(settings.temperature, settings.sample_loss_weight)
    for _ in range(settings.steps if course else 0):
        batch = course.draw()
        vector_ND = vector_RD[batch.row_N]
        raw_NE = vector_ND @ learned["projection_DE"] + learned["shift_E"]
        _, by_raw_NE, by_arm_AE = dual_loss(raw_NE, learned["arm_AE"], batch.picks, weights, batch.others)
        optimiser.step(
            {"projection_DE": vector_ND.T @ by_raw_NE, "shift_E": by_raw_NE.sum(axis=0), "arm_AE": by_arm_AE}
        )
    return Member(learned["projection_DE"], learned["shift_E"], unit(learned["arm_AE"])[0])


def fine_tune(
    texts: Sequence[str], examples: Examples, settings: RouterDcSettings, seed: int
) -> tuple[Member, TextGraph]:
    """Train an encoder end to end; its vectors and the arms' share a space, so the map is the identity."""
    torch = optional("torch", extra="train")
    course, rng = Course(examples, settings, seed), np.random.default_rng((seed, 1))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = load_network(settings.model, pooling=settings.pooling, most_tokens=settings.most_tokens)
        learned = {"arm_AE": _ARM_SPREAD * rng.standard_normal((examples.quality_RA.shape[1], network.width))}
        rate, steps = settings.encoder_learning_rate, settings.steps
        arm_optimiser = AdamW(learned, learning_rate=rate, weight_decay=0.0, steps=steps)
        optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=settings.weight_decay)

        def rate_left(step: int) -> float:
            return 1.0 - step / steps

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate_left)
        weights = Weights(settings.temperature, settings.sample_loss_weight)
        network.train()
        for _ in range(steps if course else 0):
            batch = course.draw()
            optimiser.zero_grad()
            raw_NE: Any = network.pooled([texts[int(row)] for row in batch.row_N])
            plain_NE: FloatArray = raw_NE.detach().cpu().double().numpy()
            _, by_raw_NE, by_arm_AE = dual_loss(
                plain_NE, learned["arm_AE"], batch.picks, weights, batch.others
            )
            raw_NE.backward(torch.from_numpy(by_raw_NE).to(raw_NE))
            optimiser.step()
            schedule.step()
            arm_optimiser.step({"arm_AE": by_arm_AE})
        graph = network.export(settings.precision)
    identity_EE = np.eye(network.width)
    return Member(identity_EE, np.zeros(network.width), unit(learned["arm_AE"])[0]), graph


def _rows_to_learn_from(quality_RA: FloatArray, *, keep_all: bool) -> IntArray:
    """Rows whose measured arms differ; where all are equal the first loss has no gradient worth having."""
    seen_RA = ~np.isnan(quality_RA)
    best_R = np.where(seen_RA, quality_RA, -np.inf).max(axis=1)
    worst_R = np.where(seen_RA, quality_RA, np.inf).min(axis=1)
    return np.flatnonzero((best_R > worst_R) | keep_all)


def _chances(tasks: Sequence[str | None], *, balanced: bool) -> FloatArray:
    """Chance of each row to be drawn: equal, or of equal sums for every task."""
    if not balanced:
        return np.full(len(tasks), 1.0 / len(tasks))
    _, task_R, count_T = np.unique([task or "" for task in tasks], return_inverse=True, return_counts=True)
    return 1.0 / (count_T[task_R] * len(count_T))
