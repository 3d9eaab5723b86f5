"""AdamW for weights of fewer than 32 bits: they are kept in float32 as well, and rounded after every step.

A step of 1e-6 on a weight of .02 is a hundredth of what bfloat16 can tell apart: added to the rounded weight itself it would
be lost every time, and nothing would be learned. Gradients are summed in float32 for the same reason: the last of a
thousand batches would vanish in the sum of the others. Weights of 32 bits are stepped where they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class MasterAdamW(torch.optim.AdamW):
    """AdamW over float32 copies; its state, and so a checkpoint's, holds them.

    Args:
        groups: Parameter groups, as AdamW takes them.
        learning_rate: Of the first step.
        betas: AdamW's.
    """

    def __init__(
        self, groups: Iterable[Mapping[str, Any]], learning_rate: float, betas: tuple[float, float]
    ) -> None:
        listed = [dict(group) for group in groups]
        self._rounded: list[Tensor] = [p for group in listed for p in group["params"]]
        for group in listed:
            group["params"] = [_master(p) for p in group["params"]]
        self.masters: list[Tensor] = [p for group in listed for p in group["params"]]
        super().__init__(listed, lr=learning_rate, betas=betas)

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every rounded weight and its copy."""
        pairs = zip(self._rounded, self.masters, strict=True)
        return ((rounded, master) for rounded, master in pairs if rounded is not master)

    def collect(self) -> None:
        """Add the gradients of one backward pass to those of the step."""
        for rounded, master in self._pairs():
            if rounded.grad is not None:
                gradient = rounded.grad.float()
                master.grad = gradient if master.grad is None else master.grad + gradient
                rounded.grad = None

    def step(self, closure: Any = None) -> Any:
        """Step the copies, round them into the weights."""
        super().step(closure)  # pyright: ignore[reportUnknownMemberType]
        with torch.no_grad():
            for rounded, master in self._pairs():
                rounded.copy_(master)

    def state_dict(self) -> dict[str, Any]:
        """AdamW's state and the copies."""
        return {**super().state_dict(), "masters": [master.detach() for _, master in self._pairs()]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up both."""
        masters: list[Tensor] = state_dict["masters"]
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "masters"})
        with torch.no_grad():
            for (_, master), stored in zip(self._pairs(), masters, strict=True):
                master.copy_(stored)


def _master(parameter: Tensor) -> Tensor:
    if parameter.dtype == torch.float32:
        return parameter
    return nn.Parameter(parameter.detach().float().clone())
