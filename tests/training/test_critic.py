"""A value head's own learning rate: the model learns as if the head were not there, and without it nothing changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from thinkroute.fleet import shipped
from thinkroute.programs.direct import direct
from thinkroute.training import settings
from thinkroute.training.learner import FleetLearner
from thinkroute.training.losses import PolicyOptions
from thinkroute.training.metrics import MetricsFile
from thinkroute.training.optimise import (
    Checkpoint,
    OptimiserOptions,
    apply_gradients,
    backward,
    learning_rate_at,
    make_optimizer,
    run_steps,
)
from thinkroute.training.policy import PolicyTrainer, RolloutOptions
from thinkroute.training.rollout import Attempt
from thinkroute.training.samplers import EmbeddedSampler
from thinkroute.training.settings import AdaCoTConfig
from thinkroute.training.tasks import FleetTask, Item
from thinkroute.training.trajectory import Group, RewardTerms, Trajectory
from thinkroute.types import Effort

BASE = shipped.directory("base")
TASK = FleetTask(("relations",), (0.5, 0.5, 0.0, 0.0, 0.0))
OPTIONS = OptimiserOptions(1e-3, weight_decay=0.1, clip_norm=0.5, schedule="linear", steps=6)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Pair:
    """A model and a head that know nothing of each other; the head's gradient is a thousand times the model's."""

    def __init__(
        self, options: OptimiserOptions, dtype: torch.dtype = torch.float32, head: bool = True
    ) -> None:
        torch.manual_seed(0)  # pyright: ignore[reportUnknownMemberType]
        self.options = options
        self.model, self.head = nn.Linear(4, 3).to(dtype), nn.Linear(4, 2)
        self.modules: list[nn.Module] = [self.model, self.head] if head else [self.model]
        self.optimizer: torch.optim.Optimizer = make_optimizer(
            self.modules, options, self.head if head else None
        )

    def loss(self) -> torch.Tensor:
        inputs = torch.linspace(-1, 1, 4)
        pulled = [self.model(inputs.to(self.model.weight.dtype)).float().sum()]
        if len(self.modules) > 1:
            pulled.append(1000 * self.head(inputs).sum())
        return torch.stack(pulled).square().sum()

    def update(self, step: int) -> Mapping[str, float]:
        backward(self.loss(), self.optimizer)
        rate = learning_rate_at(step, self.options)
        return {"norm": apply_gradients(self, rate, self.options.clip_norm)}


def weights(module: nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in module.state_dict().values()]


def equal(left: nn.Module, right: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(left), weights(right), strict=True))


def test_without_a_rate_of_its_own_the_head_is_stepped_and_clipped_with_the_rest() -> None:
    pair, plain = Pair(OPTIONS), Pair(OPTIONS)
    parameters = [p for module in plain.modules for p in module.parameters()]
    adam = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        betas=OPTIONS.betas,
    )
    for step in range(6):
        pair.update(step)
        plain.loss().backward()  # pyright: ignore[reportUnknownMemberType]
        for group in adam.param_groups:
            group["lr"] = learning_rate_at(step, OPTIONS)
        torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        adam.step()  # pyright: ignore[reportUnknownMemberType]
        adam.zero_grad()
    assert equal(pair.model, plain.model)
    assert equal(pair.head, plain.head)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_a_rate_of_its_own_the_head_takes_nothing_from_the_model(dtype: torch.dtype) -> None:
    options = replace(OPTIONS, value_learning_rate=0.02)
    pair, alone = Pair(options, dtype), Pair(options, dtype, head=False)
    begun = weights(pair.head)
    norms = [(pair.update(step)["norm"], alone.update(step)["norm"]) for step in range(6)]
    assert equal(pair.model, alone.model)
    assert all(left == right for left, right in norms), "the norm is the model's"
    # Adam's first step is the rate itself: that of the head, not of the model.
    once = Pair(options, dtype)
    once.update(0)
    moved = (weights(once.head)[1] - begun[1]).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.02), rtol=1e-3, atol=0)


class Right:
    """Answers that are right are worth one; no method needs less."""

    def attempts(self, item: Item, seed: int) -> list[Attempt]:
        options = {"temperature": 1.0, "logprobs": True}
        return [
            Attempt(item.messages, direct("base", Effort("off"), 40), None, {**options, "seed": seed + place})
            for place in range(4)
        ]

    def rewards(self, item: Item, group: Group) -> Sequence[RewardTerms]:
        return [{"right": TASK.grade(item, each.text)} for each in group]

    def excluded(self, trajectory: Trajectory) -> frozenset[int]:
        return frozenset()

    def watched(self, item: Item, trajectory: Trajectory) -> str:
        return ""

    def describe(self, item: Item, trajectory: Trajectory) -> Mapping[str, float]:
        return {}


def critic(value_learning_rate: float | None) -> PolicyTrainer:
    """At a checkpoint's learning rate."""
    return PolicyTrainer(
        FleetLearner("base", BASE),
        EmbeddedSampler("base", BASE, seats=16),
        Right(),
        TASK.pool(12, 0),
        options=PolicyOptions("gae", "token", "token_mean", trace=1.0, whiten=True),
        rollouts=RolloutOptions(seed=5, items_per_step=4),
        optimiser=OptimiserOptions(1e-6, value_learning_rate=value_learning_rate),
    )


def test_a_fresh_critic_learns_at_its_own_rate_and_not_at_the_model_s() -> None:
    def losses(rate: float | None) -> list[float]:
        rows: list[float] = []
        run_steps(critic(rate), 12, progress=lambda step, values: rows.append(values["value_loss"]))
        return rows

    shared, own = losses(None), losses(3e-3)
    assert shared[0] == own[0]
    assert min(shared[-3:]) > 0.5 * shared[0]
    assert max(own[-3:]) < 0.5 * min(shared[-3:])


def test_a_resumed_run_with_a_rate_for_the_critic_ends_in_the_same_bits(tmp_path: Path) -> None:
    whole, resumed = critic(1e-3), critic(1e-3)
    run_steps(whole, 4, metrics=MetricsFile(tmp_path / "whole.jsonl"))
    checkpoint = Checkpoint(tmp_path / "state.pt", "run", every_steps=2)
    metrics = MetricsFile(tmp_path / "parts.jsonl")
    run_steps(critic(1e-3), 2, checkpoint=checkpoint, metrics=metrics)
    run_steps(resumed, 4, checkpoint=checkpoint, metrics=metrics)
    assert len(whole.modules) == 2
    assert all(equal(left, right) for left, right in zip(whole.modules, resumed.modules, strict=True))
    assert metrics.read() == MetricsFile(tmp_path / "whole.jsonl").read()


def test_files_without_a_rate_for_the_critic_are_known_by_the_same_text_as_ever() -> None:
    config = settings.load("adacot-fleet", "adacot")
    assert isinstance(config, AdaCoTConfig)
    assert config.value_learning_rate is None
    assert "value_learning_rate" not in config.model_dump_json()
    checkpoint = settings.load("adacot-qwen3-1.7b", "adacot")
    assert isinstance(checkpoint, AdaCoTConfig)
    assert checkpoint.value_learning_rate == 1e-4
