"""AdaptThink (arXiv 2505.13417): learn to skip thinking wherever that costs no accuracy.

Maximise E[1{the block is empty}] subject to E[R] ≥ E[R of the initial model], as a Lagrangian with δ = 1/λ:

    A(x, y) = δ · 1{empty block} + R(x, y) − R̄_ref(x)

R is 0 or 1; R̄_ref is the mean of K samples of the *initial* model. No group mean, no standard deviation: any centring
within the group cancels R̄_ref, and the constraint with it. Half of the responses are forced either way, so that both
are seen however unlikely one has become; the deciding token carries the sampler's own log ½.

Two ratios are offered. `sequence_mean` (default) is what the published code computes: with one update per batch,
log r = log(p(decision) / ½) / L over a response of L tokens. The gradient on the decision never vanishes, so a cold start works,
and p may move anywhere in [½(1−ε)^L, ½(1+ε)^L]. `token` is how the paper's formula reads: the ratio p/½ itself is
clipped, so p stops between ½(1−ε) and ½(1+ε), .4 and .6: a plateau, whatever the question.

`thinking` says how the other half of a group comes about. `forced` is the paper's. `free` leaves it to the policy: with
both openings forced, no other first token is ever sampled, so nothing stops one from becoming likely when the shared
weights move, and on a small vocabulary at a high learning rate one does (measured: docs/training.md). A free response
that opens with something else is wrong, and is pushed back. It carries its own probabilities.

Deviations: `kl` (the paper: none) adds a divergence from the initial model to the loss; it pulls at the forced decision
too, so that an answer at once is worth up to `kl` less than δ. The fleet and Qwen3 write `<think>` themselves before
deciding, so the decision is the second token of the response, not the first, and the first is no choice. The reference
is forced to think, because a base that sometimes answers at once by itself would lower its own baseline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Literal

from thinkroute.programs.direct import direct
from thinkroute.training.reference import ReferenceTable
from thinkroute.training.rollout import Attempt, Opening
from thinkroute.training.tasks import Item, Task
from thinkroute.training.thinking import Openings, has_reasoning
from thinkroute.training.trajectory import Group, RewardTerms, Trajectory
from thinkroute.types import FORCED, Effort

_HALF = log(0.5)


def reward_terms(*, direct_answer: bool, right: float, reference: float, delta: float) -> RewardTerms:
    """The three terms of the advantage."""
    return {"right": right, "direct": delta * direct_answer, "reference": -reference}


@dataclass(frozen=True, slots=True)
class AdaptThink:
    """The method, for `policy.PolicyTrainer`."""

    model: str
    task: Task
    openings: Openings
    reference: ReferenceTable
    delta: float = 0.05
    group: int = 16
    forced: bool = True
    """Off only for the ablation: without forcing, an unlikely mode is never seen."""
    thinking: Literal["forced", "free"] = "forced"
    temperature: float = 1.0
    most_tokens: int | None = None
    """Cap of a thinking response."""
    most_tokens_direct: int | None = None
    """Cap of a response behind an empty block."""

    def attempts(self, item: Item, seed: int) -> list[Attempt]:
        """Half of the group behind either opening."""
        return [self._attempt(item, seed + place, place % 2 == 0) for place in range(self.group)]

    def _attempt(self, item: Item, seed: int, direct_answer: bool) -> Attempt:
        most = self.most_tokens_direct if self.forced and direct_answer else self.most_tokens
        text = self.openings.no_think if direct_answer else self.openings.think
        forced = self.forced and (direct_answer or self.thinking == "forced")
        opening = Opening(text, (*[None] * self.openings.decision, _HALF)) if forced else None
        options = {"temperature": self.temperature, "seed": seed, "logprobs": True}
        return Attempt(item.messages, direct(self.model, Effort("default"), most), opening, options)

    def rewards(self, item: Item, group: Group) -> Sequence[RewardTerms]:
        """The advantage itself, term by term: `PolicyOptions.advantage` must be `raw`."""
        baseline = self.reference[item].reward
        return [
            reward_terms(
                direct_answer=not has_reasoning(trajectory.text),
                right=self.task.grade(item, trajectory.text),
                reference=baseline,
                delta=self.delta,
            )
            for trajectory in group
        ]

    def excluded(self, trajectory: Trajectory) -> frozenset[int]:
        """Nothing: the decision is what is learned."""
        return frozenset()

    def watched(self, item: Item, trajectory: Trajectory) -> str:
        """How likely an answer at once is by the policy itself, by level: the forced share says nothing of that."""
        return "" if has_reasoning(trajectory.text) else f"p_direct/level-{item.level}"

    def describe(self, item: Item, trajectory: Trajectory) -> Mapping[str, float]:
        """Accuracy of either mode by level; and how often free responses answer at once: the forced ones say nothing."""
        thinks = has_reasoning(trajectory.text)
        right = {
            f"right/{'think' if thinks else 'direct'}/level-{item.level}": self.task.grade(
                item, trajectory.text
            )
        }
        free = all(span.owner != FORCED for span in trajectory.spans)
        return {**right, f"direct/level-{item.level}": float(not thinks)} if free else right
