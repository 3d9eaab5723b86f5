"""From rewards to advantages. Plain numbers, so that every golden value can be checked by hand. Never imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, pstdev, stdev
from typing import Literal

AdvantageName = Literal["raw", "group_mean", "group_norm", "group_norm_unbiased", "gae"]
_LEAST_SPREAD = 1e-6


def group_advantages(rewards_G: Sequence[float], name: AdvantageName) -> list[float]:
    """One advantage per trajectory of a group.

    `raw` is the reward itself, for rewards that are centred already (AdaptThink). `group_mean` subtracts the group's mean
    (Dr. GRPO, arXiv 2503.20783); `group_norm` also divides by its standard deviation (GRPO, arXiv 2402.03300), and
    `group_norm_unbiased` by the sample's, as most trainers do. A group whose rewards are all equal has advantages of
    exactly zero under all three.

    Raises:
        ValueError: the name is `gae`, which is per token and needs values.
    """
    if name == "raw":
        return list(rewards_G)
    if name == "gae":
        raise ValueError("gae advantages are per token: use generalised_advantages")
    if min(rewards_G) == max(rewards_G):
        return [0.0] * len(rewards_G)
    mean = fmean(rewards_G)
    spreads = {"group_norm": pstdev, "group_norm_unbiased": stdev}
    spread = spreads[name](rewards_G) if name in spreads else 1.0
    return [(reward - mean) / max(spread, _LEAST_SPREAD) for reward in rewards_G]


def generalised_advantages(
    rewards_T: Sequence[float], values_T: Sequence[float], *, discount: float = 1.0, trace: float = 0.95
) -> tuple[list[float], list[float]]:
    """Generalised advantage estimation over one finished episode (arXiv 1506.02438).

    delta_t = r_t + γ V_{t+1} − V_t;  A_t = delta_t + γ λ A_{t+1};  V after the last token is 0.

    Args:
        rewards_T: Reward after each action.
        values_T: Value before each action.
        discount: γ.
        trace: λ.

    Returns:
        Advantages, and the returns A_t + V_t that values are fitted to.
    """
    advantages_T = [0.0] * len(rewards_T)
    following_value = following_advantage = 0.0
    for place in range(len(rewards_T) - 1, -1, -1):
        delta = rewards_T[place] + discount * following_value - values_T[place]
        following_advantage = delta + discount * trace * following_advantage
        advantages_T[place] = following_advantage
        following_value = values_T[place]
    returns_T = [advantage + value for advantage, value in zip(advantages_T, values_T, strict=True)]
    return advantages_T, returns_T
