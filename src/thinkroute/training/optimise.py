"""The optimiser, its schedule, and the loop around any trainer: metrics, checkpoints, resuming.

What a step does depends on the seed, the step's number and the state of weights and optimiser, on nothing else. That is
what makes a resumed run end in the same bits as one that was never interrupted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from thinkroute.training.metrics import MetricsFile
from thinkroute.training.mixed_precision import MasterAdamW

logger = logging.getLogger(__name__)

Progress = Callable[[int, Mapping[str, float]], None]
"""Called after every step with the number of steps done and that step's metrics."""


@dataclass(frozen=True, slots=True)
class OptimiserOptions:
    """AdamW and its schedule."""

    learning_rate: float = 4e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    """On matrices only."""
    clip_norm: float = 1.0
    warmup_steps: int = 0
    schedule: Literal["constant", "linear"] = "constant"
    """`linear` falls to zero over the last third of the steps."""
    steps: int = 0
    """Steps of the whole run; only `linear` needs them."""
    value_learning_rate: float | None = None
    """Of a value head, which then also has its gradient clipped apart from the model's; None: it goes with all the rest."""


def learning_rate_at(step: int, options: OptimiserOptions) -> float:
    """Warm-up, then constant; with `linear`, a fall over the last third."""
    warm = min(1.0, (step + 1) / (options.warmup_steps + 1))
    if options.schedule == "constant":
        return options.learning_rate * warm
    return options.learning_rate * warm * min(1.0, 3 * (options.steps - step) / options.steps)


def make_optimizer(
    modules: Sequence[nn.Module], options: OptimiserOptions, head: nn.Module | None = None
) -> torch.optim.AdamW:
    """AdamW over all trainable parameters; norm scales and biases do not decay.

    Weights of fewer than 32 bits are stepped in float32: see `mixed_precision`.

    Args:
        modules: What is trained.
        options: AdamW's.
        head: That of the modules which `value_learning_rate` is about.
    """
    parameters = [
        parameter for module in modules for parameter in module.parameters() if parameter.requires_grad
    ]
    if head is None or options.value_learning_rate is None:
        groups = _groups(parameters, options.weight_decay)
    else:
        own = list(head.parameters())
        known = {id(parameter) for parameter in own}
        rest = [parameter for parameter in parameters if id(parameter) not in known]
        pace = options.value_learning_rate / options.learning_rate
        groups = [
            *_groups(rest, options.weight_decay),
            *({**group, _PACE: pace} for group in _groups(own, options.weight_decay)),
        ]
    if all(parameter.dtype == torch.float32 for parameter in parameters):
        return torch.optim.AdamW(groups, lr=options.learning_rate, betas=options.betas)
    return MasterAdamW(groups, options.learning_rate, options.betas)


_PACE = "pace"
"""In a parameter group: its learning rate over that of the rest, from which its gradient is clipped apart."""


def _groups(parameters: Sequence[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def backward(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Add the gradients of one batch to those of the step."""
    loss.backward()  # pyright: ignore[reportUnknownMemberType]
    if isinstance(optimizer, MasterAdamW):
        optimizer.collect()


class Trainer(Protocol):
    """One method's update. `step` is the number of steps done before."""

    modules: list[nn.Module]
    """Everything that is trained and kept in checkpoints."""
    optimizer: torch.optim.Optimizer

    def update(self, step: int) -> Mapping[str, float]:
        """Do one optimiser step and say how it went."""
        ...


def apply_gradients(trainer: Trainer, learning_rate: float, clip_norm: float) -> float:
    """Clip, step, forget the gradients; returns the norm before clipping (the model's own where a head is clipped apart)."""
    groups = trainer.optimizer.param_groups
    for group in groups:
        group["lr"] = learning_rate * group.get(_PACE, 1.0)
    apart = {id(p) for group in groups if _PACE in group for p in group["params"]}
    masters = trainer.optimizer.masters if isinstance(trainer.optimizer, MasterAdamW) else None
    parameters = masters or [p for module in trainer.modules for p in module.parameters()]
    moved = [p for p in parameters if p.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_([p for p in moved if id(p) not in apart], clip_norm)
    if apart:
        torch.nn.utils.clip_grad_norm_([p for p in moved if id(p) in apart], clip_norm)
    trainer.optimizer.step()  # pyright: ignore[reportUnknownMemberType]
    trainer.optimizer.zero_grad(set_to_none=True)
    return float(norm)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a run keeps its state, and what run it is of."""

    path: Path
    identity: str
    """Anything that tells runs apart; a checkpoint of another run is not continued."""
    every_steps: int = 50

    def save(self, trainer: Trainer, step: int) -> None:
        """Write the whole state, at once or not at all."""
        state: dict[str, Any] = {
            "identity": self.identity,
            "step": step,
            "modules": [module.state_dict() for module in trainer.modules],
            "optimizer": trainer.optimizer.state_dict(),
            "torch_rng": torch.get_rng_state(),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.path)

    def resume(self, trainer: Trainer) -> int:
        """Take up the saved state; returns the steps done, 0 where there is nothing to continue."""
        if not self.path.exists():
            return 0
        state = torch.load(self.path, weights_only=True)
        if state["identity"] != self.identity:
            logger.warning("%s belongs to another run: starting anew", self.path)
            return 0
        for module, weights in zip(trainer.modules, state["modules"], strict=True):
            module.load_state_dict(weights)
        trainer.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch_rng"])
        return int(state["step"])


def run_steps(
    trainer: Trainer,
    steps: int,
    *,
    checkpoint: Checkpoint | None = None,
    metrics: MetricsFile | None = None,
    progress: Progress = lambda step, values: None,
) -> None:
    """Train up to `steps` steps in all, continuing a checkpoint where there is one."""
    first = checkpoint.resume(trainer) if checkpoint else 0
    if metrics:
        metrics.forget_from(first)
    for step in range(first, steps):
        values = trainer.update(step)
        if metrics:
            metrics.write(step, values)
        progress(step + 1, values)
        if checkpoint and ((step + 1) % checkpoint.every_steps == 0 or step + 1 == steps):
            checkpoint.save(trainer, step + 1)
