"""Trajectories as tensors, aligned with what predicts them.

Column t of every (B, T) tensor but the ids is about predicting token t + 1. Rows are right-padded. Trajectories that
are equal in every respect become one row with a weight: the loss is the same, the work is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from thinkroute.training.trajectory import Trajectory


@dataclass(slots=True)
class Row:
    """One trajectory to learn from."""

    trajectory: Trajectory
    advantages: list[float] = field(default_factory=list[float])
    """Per response token, or a single one for all."""
    returns: list[float] = field(default_factory=list[float])
    """Per response token: what the value head is fitted to. Empty without one."""
    weight: float = 1.0
    watched: str = ""
    """Name under which the learner's probability of the action that was forced on it is logged; empty: it is not."""

    @property
    def length(self) -> int:
        """Prompt and response tokens."""
        return len(self.trajectory.prompt_ids) + self.trajectory.tokens


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows as tensors."""

    ids_BT: Tensor
    """(B, T + 1): all tokens; the last column is only predicted."""
    real_BT: Tensor
    mask_BT: Tensor
    """1 on tokens that get a policy gradient."""
    actions_BT: Tensor
    """1 on tokens that were actions: what values are about."""
    behaviour_BT: Tensor
    """Not a number on actions whose probability nobody recorded."""
    advantages_BT: Tensor
    returns_BT: Tensor
    weights_B: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch elsewhere."""
        return Batch(*(getattr(self, name).to(device) for name in self.__slots__))  # type: ignore[attr-defined]


def merge_equal(rows: Sequence[Row]) -> list[Row]:
    """One row for trajectories with the same tokens, owners and advantages. Log-probabilities that differ by rounding
    count as the same; forced and free choices of the same token do not.
    """
    merged: dict[object, Row] = {}
    for row in rows:
        trajectory = row.trajectory
        forced = tuple((span.owner, len(span.ids), span.train) for span in trajectory.spans)
        key = (
            trajectory.prompt_ids,
            trajectory.response_ids,
            forced,
            trajectory.excluded,
            tuple(row.advantages),
            tuple(row.returns),
        )
        if (known := merged.get(key)) is not None:
            known.weight += row.weight
        else:
            merged[key] = replace(row)
    return list(merged.values())


def pack(rows: Sequence[Row], tokens: int) -> Iterator[list[Row]]:
    """Rows of similar length in batches of at most `tokens`, padding included (a longer row comes alone)."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: row.length):
        if batch and (len(batch) + 1) * row.length > tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def collate(rows: Sequence[Row], learner: str) -> Batch:
    """Tensors of the rows."""
    width = max(row.length for row in rows)
    ids_BT = torch.zeros(len(rows), width, dtype=torch.long)
    real_BT = torch.zeros(len(rows), width, dtype=torch.bool)
    floats = torch.zeros(5, len(rows), width)
    for index, row in enumerate(rows):
        trajectory = row.trajectory
        ids = [*trajectory.prompt_ids, *trajectory.response_ids]
        ids_BT[index, : len(ids)] = torch.tensor(ids)
        real_BT[index, : len(ids)] = True
        response = slice(len(trajectory.prompt_ids), len(ids))
        actions = trajectory.actions(learner)
        behaviour = [
            (math.nan if logprob is None else logprob) if action else 0.0
            for action, logprob in zip(actions, trajectory.behaviour_logprobs(), strict=True)
        ]
        columns = (trajectory.trained(learner), actions, behaviour)
        for plane, values in zip(floats, (*columns, row.advantages, row.returns), strict=True):
            if len(values) > 0:
                plane[index, response] = torch.tensor(values, dtype=torch.float32)
    mask_BT, actions_BT, behaviour_BT, advantages_BT, returns_BT = floats[:, :, 1:]
    weights_B = torch.tensor([row.weight for row in rows])
    return Batch(
        ids_BT, real_BT[:, :-1], mask_BT, actions_BT, behaviour_BT, advantages_BT, returns_BT, weights_B
    )
