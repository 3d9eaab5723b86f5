"""AdaCoT (arXiv 2505.11896): supervised warm-up on labels, then PPO with penalties for thinking amiss.

    R(x, r) = R_base − α1 · P_miss − α2 · P_over − γ · P_format

P_miss: the label says think and the block is empty; P_over: the label says answer and the block is not; P_format: the
response is malformed. All are 0 or 1. Sweeping (α1, α2) traces a front of accuracy against the share of thinking. *Selective
loss masking* leaves exactly one token out of the policy loss: the one after `<think>`, which decides. It still counts in
the value targets. Without it, training on questions that all need thinking teaches to always think.

At convergence the policy is a threshold: with p_T and p_N the accuracies with and without thinking, it thinks iff
p_T + α1 > p_N where the label says think, and iff p_T − α2 > p_N where it says answer. `thinks_at_optimum` is that rule,
and the tests' oracle.

A share of the questions carries a system message that orders to always or never think (`Orders`). It overrules the
label, and a response that disobeys is neither right nor well-formed.

Deviations: learning rate, batch size and KL are not published, ours are in the configurations. Labels come from an audit
(samples of both modes) instead of a judge model: think iff the audit shows that thinking helps by more than a margin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from thinkroute.programs.direct import direct
from thinkroute.training.reference import ReferenceTable
from thinkroute.training.rollout import Attempt
from thinkroute.training.tasks import Item, Task
from thinkroute.training.thinking import ALWAYS, NEVER, Openings, has_reasoning, is_well_formed
from thinkroute.training.trajectory import Group, RewardTerms, Trajectory
from thinkroute.types import Effort

OPERATING_POINTS = ((0.1, 0.3), (0.2, 0.3), (0.3, 0.3), (0.3, 0.1))
"""The paper's experiments 1 – 4: (α1, α2)."""


@dataclass(frozen=True, slots=True)
class Penalties:
    """What a wrong decision costs, in units of a right answer."""

    miss: float = 0.2
    """α1."""
    over: float = 0.3
    """α2."""
    malformed: float = 1.0
    """γ."""


def reward_terms(
    *, right: float, reasons: bool, label: bool, well_formed: bool, penalties: Penalties
) -> RewardTerms:
    """The four terms."""
    return {
        "right": right,
        "miss": -penalties.miss * (label and not reasons),
        "over": -penalties.over * (reasons and not label),
        "malformed": -penalties.malformed * (not well_formed),
    }


def thinks_at_optimum(*, p_think: float, p_direct: float, label: bool, penalties: Penalties) -> bool:
    """The decision that maximises the expected reward."""
    gain = p_think - p_direct
    return gain > -penalties.miss if label else gain > penalties.over


def cells_at_optimum(
    items: Sequence[Item],
    able: Sequence[tuple[float, float]],
    labels: Sequence[bool],
    penalties: Penalties,
) -> list[bool]:
    """The best decision on every question for a policy that can tell family and level apart, and nothing finer.

    The rule of a single question knows whether *this* question will be answered right, which its text may not show.

    Args:
        items: The questions.
        able: Accuracy with and without thinking, by question.
        labels: Whether each is labelled `think`.
        penalties: As in training.
    """
    worth: dict[tuple[str, int], float] = {}
    for item, (p_think, p_direct), label in zip(items, able, labels, strict=True):
        fine = penalties.miss if label else -penalties.over
        cell = (item.family, item.level)
        worth[cell] = worth.get(cell, 0.0) + p_think - p_direct + fine
    return [worth[item.family, item.level] > 0 for item in items]


@dataclass(frozen=True, slots=True)
class Orders:
    """System messages that leave the model no choice."""

    always: str = ALWAYS
    never: str = NEVER

    def given(self, items: Sequence[Item], share: float, seed: int) -> list[Item]:
        """The questions, a share of them with an order, either equally often."""
        rng = Random(f"{seed}/orders")  # noqa: S311 - reproducible data
        return [
            replace(item, system=rng.choice((self.always, self.never))) if rng.random() < share else item
            for item in items
        ]

    def obeyed(self, item: Item, reasons: bool) -> bool:
        """Whether a response did what the question's order says, if it has one."""
        return item.system != (self.never if reasons else self.always)


@dataclass(frozen=True, slots=True)
class Labels:
    """Which questions deserve thinking, by audit: both modes sampled, the difference compared with a margin."""

    think: ReferenceTable
    direct: ReferenceTable
    margin: float = 0.1
    flipped: float = 0.0
    """Share of labels that are wrong on purpose, as a judge's are."""
    orders: Orders = Orders()

    def __getitem__(self, item: Item) -> bool:
        if item.system:
            return item.system == self.orders.always
        label = self.think[item].reward - self.direct[item].reward > self.margin
        return label != (Random(item.question).random() < self.flipped)  # noqa: S311 - the same flip every time


@dataclass(frozen=True, slots=True)
class AdaCoT:
    """The method, for `policy.PolicyTrainer`."""

    model: str
    task: Task
    openings: Openings
    labels: Labels
    penalties: Penalties = Penalties()
    masks_decision: bool = False
    """Selective loss masking: on in the mathematical stage, off in the general one."""
    group: int = 8
    temperature: float = 1.0
    most_tokens: int | None = None

    def attempts(self, item: Item, seed: int) -> list[Attempt]:
        """On-policy: the model decides."""
        return [
            Attempt(
                item.messages,
                direct(self.model, Effort("default"), self.most_tokens),
                None,
                {"temperature": self.temperature, "seed": seed + place, "logprobs": True},
            )
            for place in range(self.group)
        ]

    def rewards(self, item: Item, group: Group) -> Sequence[RewardTerms]:
        """Every trajectory on its own."""
        return [self._terms(item, trajectory.text) for trajectory in group]

    def _terms(self, item: Item, text: str) -> RewardTerms:
        reasons = has_reasoning(text)
        obeys = self.labels.orders.obeyed(item, reasons)
        return reward_terms(
            right=self.task.grade(item, text) * obeys,
            reasons=reasons,
            label=self.labels[item],
            well_formed=is_well_formed(text) and obeys,
            penalties=self.penalties,
        )

    def excluded(self, trajectory: Trajectory) -> frozenset[int]:
        """The deciding token, where it is masked."""
        return frozenset({self.openings.decision}) if self.masks_decision else frozenset()

    def watched(self, item: Item, trajectory: Trajectory) -> str:
        """Nothing is forced."""
        return ""

    def describe(self, item: Item, trajectory: Trajectory) -> Mapping[str, float]:
        """How often it thinks, by level and by label; how often it obeys."""
        reasons = has_reasoning(trajectory.text)
        if item.system:
            return {"obeys": float(self.labels.orders.obeyed(item, reasons))}
        thinks = float(reasons)
        label = "think" if self.labels[item] else "answer"
        return {f"thinks/level-{item.level}": thinks, f"thinks/label-{label}": thinks}
