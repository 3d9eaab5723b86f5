"""bfloat16 weights learn at the papers' learning rates, and go on from a checkpoint in the same bits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from thinkroute.training.mixed_precision import MasterAdamW
from thinkroute.training.optimise import (
    Checkpoint,
    OptimiserOptions,
    apply_gradients,
    backward,
    make_optimizer,
    run_steps,
)

RATE = 2e-6
OPTIONS = OptimiserOptions(RATE, clip_norm=1e9)


class Pulled:
    """A trainer whose loss pulls every weight down, in a few batches a step."""

    def __init__(self, dtype: torch.dtype, batches: int = 1) -> None:
        torch.manual_seed(0)  # pyright: ignore[reportUnknownMemberType]
        layer = nn.Linear(4, 4)
        with torch.no_grad():
            layer.weight.fill_(0.02)
        self.modules: list[nn.Module] = [layer.to(dtype), nn.Linear(4, 1)]
        self.optimizer: torch.optim.Optimizer = make_optimizer(self.modules, OPTIONS)
        self._batches = batches

    @property
    def weight(self) -> torch.Tensor:
        return next(self.modules[0].parameters())

    def update(self, step: int) -> Mapping[str, float]:
        for batch in range(self._batches):
            scale = 1.0 if batch == 0 else 1e-3
            parameters = [p for module in self.modules for p in module.parameters()]
            loss = torch.stack([p.float().sum() for p in parameters]).sum() * scale
            backward(loss, self.optimizer)
        return {"norm": apply_gradients(self, RATE, OPTIONS.clip_norm)}


def test_a_step_too_small_for_bfloat16_is_not_lost() -> None:
    """AdamW's step is the learning rate itself here: a hundred of them are 2e-4, three units of bfloat16 at .02."""
    plain = nn.Parameter(torch.full((4, 4), 0.02, dtype=torch.bfloat16))
    adam = torch.optim.AdamW([plain], lr=RATE, weight_decay=0.0)
    for _ in range(100):
        plain.float().sum().backward()  # type: ignore[no-untyped-call]
        adam.step()  # pyright: ignore[reportUnknownMemberType]
        adam.zero_grad()
    begun = torch.tensor(0.02).bfloat16().float()
    assert (plain.float() == begun).all(), "why there are copies"
    trainer = Pulled(torch.bfloat16)
    for step in range(100):
        trainer.update(step)
    assert trainer.weight.dtype == torch.bfloat16
    assert trainer.weight.float().mean().item() == pytest.approx(float(begun) - 100 * RATE, abs=5e-5)


def test_small_gradients_of_many_batches_are_summed_in_float32() -> None:
    trainer = Pulled(torch.bfloat16, batches=501)
    assert trainer.update(0)["norm"] == pytest.approx(1.5 * 5, rel=1e-3), (
        "√25 weights, each pulled by 1 + 500/1000"
    )


def test_float32_weights_are_stepped_by_adamw_itself() -> None:
    assert type(Pulled(torch.float32).optimizer) is torch.optim.AdamW
    assert isinstance(Pulled(torch.bfloat16).optimizer, MasterAdamW)


def test_a_resumed_run_of_bfloat16_weights_ends_in_the_same_bits(tmp_path: Path) -> None:
    whole = Pulled(torch.bfloat16)
    run_steps(whole, 30)
    checkpoint = Checkpoint(tmp_path / "state.pt", "run", every_steps=10)
    run_steps(Pulled(torch.bfloat16), 10, checkpoint=checkpoint)
    resumed = Pulled(torch.bfloat16)
    run_steps(resumed, 30, checkpoint=checkpoint)
    assert isinstance(whole.optimizer, MasterAdamW)
    assert isinstance(resumed.optimizer, MasterAdamW)
    for left, right in zip(whole.optimizer.masters, resumed.optimizer.masters, strict=True):
        assert torch.equal(left, right)
    assert torch.equal(whole.weight, resumed.weight)
