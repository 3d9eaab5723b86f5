"""Log-probabilities, entropies and values of a batch under a learner, computed only where they are asked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thinkroute.training.batch import Batch
from thinkroute.training.learner import Learner


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
) -> Scores:
    """Score the tokens chosen by `where_BT` (non-zero).

    Args:
        learner: Whose probabilities.
        batch: Tokens.
        where_BT: Positions to score.
        temperature: Of the sampling: the distribution the tokens were drawn from is softmax(logits / temperature).
        head: Values at all action tokens are wanted as well.
    """
    hidden = learner.hidden(batch.ids_BT[:, :-1], batch.real_BT)
    chosen_BT = where_BT > 0
    logits_NV = learner.logits(hidden[chosen_BT]) / temperature
    logprobs_NV = torch.log_softmax(logits_NV, dim=-1)
    targets_N = batch.ids_BT[:, 1:][chosen_BT]
    logp_N = logprobs_NV.gather(1, targets_N[:, None]).squeeze(1)
    entropy_N = -(logprobs_NV.exp() * logprobs_NV).sum(dim=-1)
    zeros_BT = torch.zeros(chosen_BT.shape, device=logp_N.device)
    values_BT = None if head is None else head(hidden) * batch.actions_BT
    return Scores(
        zeros_BT.masked_scatter(chosen_BT, logp_N), zeros_BT.masked_scatter(chosen_BT, entropy_N), values_BT
    )
