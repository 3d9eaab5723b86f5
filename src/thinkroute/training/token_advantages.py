"""Advantages token by token, for a value head: which tokens of a trajectory an estimate runs over.

Only the learner's own tokens are steps of an episode. What others wrote stands between two steps and has no value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from thinkroute.training.advantages import generalised_advantages
from thinkroute.training.batch import Row
from thinkroute.training.losses import PolicyOptions


def fill_advantages(row: Row, values_T: Tensor, learner: str, options: PolicyOptions) -> None:
    """One finished episode: the whole reward comes after the last action."""
    trajectory = row.trajectory
    begin = len(trajectory.prompt_ids) - 1
    values = cast("list[float]", values_T[begin : begin + trajectory.tokens].tolist())  # pyright: ignore[reportUnknownMemberType]
    places = [place for place, action in enumerate(trajectory.actions(learner)) if action]
    rewards_T = [0.0] * (len(places) - 1) + row.advantages
    advantages_T, returns_T = generalised_advantages(
        rewards_T, [values[place] for place in places], discount=options.discount, trace=options.trace
    )
    row.advantages, row.returns = [0.0] * trajectory.tokens, [0.0] * trajectory.tokens
    for place, advantage, value in zip(places, advantages_T, returns_T, strict=True):
        row.advantages[place], row.returns[place] = advantage, value


def whiten(rows: Sequence[Row], learner: str) -> None:
    """Bring advantages to mean 0 and spread 1 over the trained tokens of the batch, each as often as it was sampled."""
    chosen = [
        (row, place)
        for row in rows
        for place, trained in enumerate(row.trajectory.trained(learner))
        if trained
    ]
    weights = torch.tensor([row.weight for row, _ in chosen])
    values = torch.tensor([row.advantages[place] for row, place in chosen])
    mean = (values * weights).sum() / weights.sum()
    spread = (((values - mean) ** 2 * weights).sum() / weights.sum()).sqrt() + 1e-6
    for (row, place), value in zip(chosen, (values - mean) / spread, strict=True):
        row.advantages[place] = float(value)
