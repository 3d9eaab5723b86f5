"""Log-probabilities, entropies and values of a batch under a learner, computed only where they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]

from thinkroute.training.batch import Batch
from thinkroute.training.learner import Learner

MOST_LOGITS = 2**27
"""Logits worked on at once: 512 MiB in float32, 883 positions of a vocabulary of 152k; a few such tensors live together.
With bfloat16 weights the output layer's gradient is rounded once for every part."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What a learner says about a batch; zero outside the positions asked for."""

    logp_BT: Tensor
    entropy_BT: Tensor
    values_BT: Tensor | None


class ValueHead(nn.Module):
    """A small network on the learner's hidden states. It does not move them: gradients end here."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, hidden: Tensor) -> Tensor:
        """Expected return of each position."""
        return self.layers(hidden.detach().float()).squeeze(-1)


def score(
    learner: Learner,
    batch: Batch,
    *,
    where_BT: Tensor,
    temperature: float = 1.0,
    head: ValueHead | None = None,
    entropy_moves: bool = False,
) -> Scores:
    """Score the tokens chosen by `where_BT` (non-zero).

    Args:
        learner: Whose probabilities.
        batch: Tokens.
        where_BT: Positions to score.
        temperature: Of the sampling: the distribution the tokens were drawn from is softmax(logits / temperature).
        head: Values at all action tokens are wanted as well.
        entropy_moves: The entropy has a gradient.
    """
    hidden = learner.hidden(batch.ids_BT[:, :-1], batch.real_BT)
    chosen_BT = where_BT > 0
    hidden_N, targets_N = hidden[chosen_BT], batch.ids_BT[:, 1:][chosen_BT]

    def scored(hidden_N: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        logprobs_NV = torch.log_softmax(learner.logits(hidden_N) / temperature, dim=-1)
        logp_N = logprobs_NV.gather(1, targets_N[:, None]).squeeze(1)
        with torch.set_grad_enabled(entropy_moves and torch.is_grad_enabled()):
            return logp_N, -(logprobs_NV.exp() * logprobs_NV).sum(dim=-1)

    rows = max(1, MOST_LOGITS // learner.vocabulary)
    if len(targets_N) <= rows:
        logp_N, entropy_N = scored(hidden_N, targets_N)
    else:
        # All logits of a batch, kept for the backward pass, would be the largest thing in memory by far.
        parts = [
            cast("tuple[Tensor, Tensor]", checkpoint(scored, *part, use_reentrant=False))
            for part in zip(torch.split(hidden_N, rows), torch.split(targets_N, rows), strict=True)
        ]
        logp_N, entropy_N = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
    zeros_BT = torch.zeros(chosen_BT.shape, device=logp_N.device)
    values_BT = None if head is None else head(hidden) * batch.actions_BT
    return Scores(
        zeros_BT.masked_scatter(chosen_BT, logp_N), zeros_BT.masked_scatter(chosen_BT, entropy_N), values_BT
    )
