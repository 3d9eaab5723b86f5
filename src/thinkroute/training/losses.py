"""The losses: four orthogonal choices in one policy loss, cross-entropy, value and probe losses.

Owns arithmetic over tensors of shape (B, T): sequences by predicted response and prompt positions. `mask_BT` is 1 on
tokens that get a gradient and 0 elsewhere; a token outside the mask has a gradient of exactly zero. `weights_B` says how
often a sequence was sampled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from thinkroute.training.advantages import AdvantageName

RatioName = Literal["token", "sequence_mean", "tis", "none"]
AggregationName = Literal["token_mean", "sequence_mean", "constant_length"]


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """The four choices of a policy gradient."""

    advantage: AdvantageName = "group_norm"
    ratio: RatioName = "token"
    aggregation: AggregationName = "token_mean"
    clip_low: float = 0.2
    clip_high: float = 0.2
    ratio_cap: float = 2.0
    """Largest weight of `tis`."""
    constant_tokens: int = 1024
    """What `constant_length` divides every sequence's sum by."""
    kl_coefficient: float = 0.0
    """Weight of the k3 estimate of the divergence from the reference model, in the loss."""
    entropy_coefficient: float = 0.0
    discount: float = 1.0
    trace: float = 0.95
    """λ of `gae`."""
    value_coefficient: float = 0.5
    whiten: bool = False
    """Whether `gae` advantages are brought to mean 0 and spread 1 over the batch."""


def ratio_losses(
    logp_BT: Tensor, behaviour_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, options: PolicyOptions
) -> Tensor:
    """Loss of every token (B, T), before regularisers and aggregation.

    With d_t = log p(t) − log b(t), p the policy and b whatever drew the token:

    - `token`: r_t = exp(d_t), clipped as PPO does (arXiv 1707.06347): −min(r A, clip(r) A).
    - `sequence_mean`: r = exp(mean of d over the sequence), one for all its tokens, clipped the same way. With the
      sampler's log ½ on the first token this is the objective AdaptThink's code optimises; see `methods.adaptthink`.
    - `tis`: truncated importance sampling without clipping: −sg(min(r_t, cap)) A log p(t).
    - `none`: REINFORCE, −A log p(t).
    """
    if options.ratio == "none":
        return -advantages_BT * logp_BT
    # Outside the mask there may be no log-probability at all: zero keeps the exponential finite.
    difference_BT = (logp_BT - behaviour_BT) * mask_BT
    if options.ratio == "tis":
        capped_BT = difference_BT.detach().exp().clamp(max=options.ratio_cap)
        return -capped_BT * advantages_BT * logp_BT
    if options.ratio == "sequence_mean":
        lengths_B = mask_BT.sum(dim=1, keepdim=True).clamp(min=1)
        difference_BT = (difference_BT.sum(dim=1, keepdim=True) / lengths_B).expand_as(logp_BT)
    ratio_BT = difference_BT.exp()
    clipped_BT = ratio_BT.clamp(1 - options.clip_low, 1 + options.clip_high)
    return -torch.minimum(ratio_BT * advantages_BT, clipped_BT * advantages_BT)


def policy_losses(
    logp_BT: Tensor,
    behaviour_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    options: PolicyOptions,
    *,
    reference_BT: Tensor | None = None,
    entropy_BT: Tensor | None = None,
) -> Tensor:
    """Loss of every token (B, T): the ratio's, plus k3 = exp(q − p) − (q − p) − 1 to the reference, minus entropy."""
    losses_BT = ratio_losses(logp_BT, behaviour_BT, advantages_BT, mask_BT, options)
    if options.kl_coefficient and reference_BT is not None:
        gap_BT = (reference_BT - logp_BT) * mask_BT
        losses_BT = losses_BT + options.kl_coefficient * (gap_BT.exp() - gap_BT - 1)
    if options.entropy_coefficient and entropy_BT is not None:
        losses_BT = losses_BT - options.entropy_coefficient * entropy_BT
    return losses_BT


def aggregate(
    losses_BT: Tensor, mask_BT: Tensor, weights_B: Tensor, name: AggregationName, constant_tokens: int = 1
) -> Tensor:
    """The sum a batch contributes; divide by `denominator` of all batches of the step together."""
    per_sequence_B = (losses_BT * mask_BT).sum(dim=1)
    if name == "sequence_mean":
        per_sequence_B = per_sequence_B / mask_BT.sum(dim=1).clamp(min=1)
    elif name == "constant_length":
        per_sequence_B = per_sequence_B / constant_tokens
    return (per_sequence_B * weights_B).sum()


def denominator(mask_BT: Tensor, weights_B: Tensor, name: AggregationName) -> float:
    """What the sums of `aggregate` are divided by: trained tokens for `token_mean`, sequences otherwise."""
    per_sequence_B = mask_BT.sum(dim=1) if name == "token_mean" else torch.ones_like(weights_B)
    return float((per_sequence_B * weights_B).sum())


def value_losses(values_BT: Tensor, returns_BT: Tensor) -> Tensor:
    """Half the squared error of every token."""
    return 0.5 * (values_BT - returns_BT) ** 2


def probe_loss(logits_N: Tensor, labels_N: Tensor, positive_weight: float = 1.0) -> Tensor:
    """Mean binary cross-entropy; `positive_weight` is usually negatives per positive."""
    return torch.nn.functional.binary_cross_entropy_with_logits(
        logits_N, labels_N, pos_weight=torch.tensor(positive_weight, device=logits_N.device)
    )
