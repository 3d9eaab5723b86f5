"""Masked supervised fine-tuning: cross-entropy on the tokens the learner owns, on nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import nn

from thinkroute.errors import DataError
from thinkroute.training.batch import Row, collate, pack
from thinkroute.training.forward import score
from thinkroute.training.learner import Learner
from thinkroute.training.losses import AggregationName, aggregate, denominator
from thinkroute.training.optimise import (
    OptimiserOptions,
    apply_gradients,
    backward,
    learning_rate_at,
    make_optimizer,
)


@dataclass(frozen=True, slots=True)
class SupervisedOptions:
    """Amounts, and how tokens are averaged."""

    seed: int = 0
    """Of the order of the examples."""
    examples_per_step: int = 32
    aggregation: AggregationName = "sequence_mean"
    """`sequence_mean` keeps a short answer from drowning among the tokens of long thoughts."""
    tokens_per_batch: int = 16_384


class SupervisedTrainer:
    """Learns from given trajectories.

    Args:
        learner: What is trained.
        rows: The examples; a row's weight multiplies its loss.
        options: Amounts.
        optimiser: AdamW and its schedule.

    Raises:
        DataError: there are no examples.
    """

    def __init__(
        self,
        learner: Learner,
        rows: Sequence[Row],
        *,
        options: SupervisedOptions,
        optimiser: OptimiserOptions,
    ) -> None:
        if not rows:
            raise DataError("no examples to learn from: none of the sampled responses was right")
        self._learner, self._rows, self._options = learner, rows, options
        self._optimiser = optimiser
        self.modules: list[nn.Module] = [learner.module]
        self.optimizer: torch.optim.Optimizer = make_optimizer(self.modules, optimiser)

    def update(self, step: int) -> Mapping[str, float]:
        """One optimiser step over the step's examples."""
        chosen = examples_at(self._rows, step, self._options.examples_per_step, self._options.seed)
        device = next(self._learner.module.parameters()).device
        batches = [
            collate(rows, self._learner.name).to(device)
            for rows in pack(chosen, self._options.tokens_per_batch)
        ]
        name = self._options.aggregation
        total = sum(denominator(batch.mask_BT, batch.weights_B, name) for batch in batches)
        self._learner.module.train()
        summed = 0.0
        for batch in batches:
            logp_BT = score(self._learner, batch, where_BT=batch.mask_BT).logp_BT
            loss = aggregate(-logp_BT, batch.mask_BT, batch.weights_B, name) / total
            backward(loss, self.optimizer)
            summed += loss.item()
        learning_rate = learning_rate_at(step, self._optimiser)
        norm = apply_gradients(self, learning_rate, self._optimiser.clip_norm)
        return {"loss": summed, "gradient_norm": norm, "learning_rate": learning_rate}


def examples_at(rows: Sequence[Row], step: int, count: int, seed: int) -> list[Row]:
    """The examples of one step: every pass over them is a permutation of its own."""
    chosen: list[Row] = []
    order: list[int] = []
    for place in range(step * count, (step + 1) * count):
        epoch, index = divmod(place, len(rows))
        if index == 0 or not order:
            order = list(range(len(rows)))
            Random(f"{seed}/{epoch}/examples").shuffle(order)  # noqa: S311 - reproducible order
        chosen.append(rows[order[index]])
    return chosen
