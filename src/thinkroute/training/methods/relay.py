"""RelayLLM (arXiv 2601.05167), training: a student learns when to call a teacher, and for how many tokens.

The student is warmed up on its own text with commands put in (`relay_warmup`), which teaches the syntax alone. Then GRPO, with
a reward decided per group of responses to one question, ρ the teacher's part of a response's tokens:

- somebody was right without calling: right alone 1 + bonus, right with calls 1 − λρ, wrong 0;
- only responses that called were right: right 1 − λρ, wrong without a call −1, wrong with calls 0;
- nobody was right: a response that called earns the exploration reward, the others 0.

The paper has bonus .5, λ 1 and an exploration reward of ρ. Rollouts run the very `relay` program that the gateway
serves. The student's commands are its tokens and are learned; what the teacher wrote is in the context and gets no gradient.

Settings beside the paper's, all off in the configurations that follow it: `explores: once` pays for any call, not for long
ones (weight · (1 − ρ)): where answers are short, ρ teaches long calls. `malformed` punishes a command without a number.
The released code cannot learn to call (served commands are rolled back, difficulty is judged over the whole batch,
teacher tokens are trained): what is built here is the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from thinkroute.programs.direct import direct
from thinkroute.programs.effects import Program
from thinkroute.programs.protocol import ThinkingFormat
from thinkroute.programs.relay import CALL, RelayLimits, RelayLog, relay
from thinkroute.training.rollout import Attempt
from thinkroute.training.tasks import Item, Task
from thinkroute.training.thinking import THINK_CLOSE
from thinkroute.training.trajectory import Group, RewardTerms, Trajectory
from thinkroute.types import Arm

RewardName = Literal["difficulty", "simple", "right"]


@dataclass(frozen=True, slots=True)
class RelayReward:
    """What a response earns."""

    kind: RewardName = "difficulty"
    """`simple`: right − λρ for every response. `right`: right, whoever wrote it; plain GRPO's."""
    bonus: float = 0.5
    """For being right without a call: independence."""
    alone: float = 1.0
    """Taken from a wrong response without a call where only calls were right."""
    cost: float = 1.0
    """λ."""
    exploration: float = 1.0
    """Weight of the exploration reward; 0 is an ablation."""
    explores: Literal["share", "once"] = "share"
    malformed: float = 0.0
    """Taken from a response with a command that called nobody."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a reward sees of one response."""

    right: bool
    called: bool
    """Whether it holds any command, answered or not."""
    share: float
    """ρ."""
    malformed: bool = False


def reward_terms(group: Sequence[Outcome], reward: RelayReward) -> list[RewardTerms]:
    """Terms of every response of one group."""
    alone_right = any(each.right and not each.called for each in group)
    some_right = any(each.right for each in group)
    return [_terms(each, reward, alone_right=alone_right, some_right=some_right) for each in group]


def _terms(outcome: Outcome, reward: RelayReward, *, alone_right: bool, some_right: bool) -> RewardTerms:
    right, called, share = outcome.right, outcome.called, outcome.share
    malformed = {"malformed": -reward.malformed * outcome.malformed}
    if reward.kind == "right":
        return {"right": float(right)}
    if reward.kind == "simple":
        return {"right": float(right), "cost": -reward.cost * share, **malformed}
    paid = share if reward.explores == "share" else 1.0 - share
    return {
        "right": float(right),
        "cost": -reward.cost * share * (right and called),
        "bonus": reward.bonus * (right and not called),
        "alone": -reward.alone * (some_right and not alone_right and not right and not called),
        "exploration": reward.exploration * paid * (called and not some_right),
        **malformed,
    }


@dataclass(frozen=True, slots=True)
class Relay:
    """The method, for `policy.PolicyTrainer`."""

    arm: Arm
    """Student and teacher, at one effort."""
    task: Task
    thinking: ThinkingFormat
    reward: RelayReward = RelayReward()
    limits: RelayLimits = field(default_factory=RelayLimits)
    calls: bool = True
    """Off for plain GRPO: the student alone, by the `direct` program."""
    group: int = 8
    temperature: float = 1.0
    most_tokens: int | None = None

    def program(self) -> Program:
        """A fresh program for one response."""
        if not self.calls:
            return direct(self.arm.models[0], self.arm.effort, self.most_tokens)
        return relay(self.arm, self.most_tokens, self.thinking, self.limits, RelayLog())

    def attempts(self, item: Item, seed: int) -> list[Attempt]:
        """On-policy: the student decides where to call."""
        return [
            Attempt(
                item.messages,
                self.program(),
                None,
                {"temperature": self.temperature, "seed": seed + place, "logprobs": True},
            )
            for place in range(self.group)
        ]

    def outcome(self, item: Item, trajectory: Trajectory) -> Outcome:
        """What the reward sees of a response."""
        teacher = self.arm.models[1]
        answered = sum(span.owner == teacher for span in trajectory.spans)
        commands = len(CALL.spans(trajectory.text))
        return Outcome(
            right=grade(self.task, item, trajectory.text) >= 1.0,
            called=commands > 0,
            share=trajectory.tokens_of(teacher) / max(trajectory.tokens, 1),
            malformed=commands > answered,
        )

    def rewards(self, item: Item, group: Group) -> Sequence[RewardTerms]:
        """Decided by the whole group."""
        return reward_terms([self.outcome(item, each) for each in group], self.reward)

    def excluded(self, trajectory: Trajectory) -> frozenset[int]:
        """Nothing: commands are learned, and the teacher's tokens are not the student's to begin with."""
        return frozenset()

    def watched(self, item: Item, trajectory: Trajectory) -> str:
        """Nothing is forced."""
        return ""

    def describe(self, item: Item, trajectory: Trajectory) -> Mapping[str, float]:
        """How often it calls, for how much, and how right it is."""
        outcome = self.outcome(item, trajectory)
        calls = sum(span.owner == self.arm.models[1] for span in trajectory.spans)
        return {
            "right": float(outcome.right),
            "calls": float(calls),
            "share": outcome.share,
            "malformed": float(outcome.malformed),
            f"right/{'called' if outcome.called else 'alone'}": float(outcome.right),
            f"calls/level-{item.level}": float(calls),
        }


def grade(task: Task, item: Item, text: str) -> float:
    """Quality of a raw message: commands are no part of it, and a block that the prompt prefilled is not in it."""
    shown = CALL.removed(text)
    return task.grade(item, shown if THINK_CLOSE in shown else f"{THINK_CLOSE}{shown}")
