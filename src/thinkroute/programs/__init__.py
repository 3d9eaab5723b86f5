"""How an arm answers: a small generator per way of answering, and the drivers that run them."""

from __future__ import annotations

from thinkroute.errors import ConfigError
from thinkroute.programs.budgeted import budgeted
from thinkroute.programs.direct import direct
from thinkroute.programs.effects import Program
from thinkroute.programs.protocol import ThinkingFormat
from thinkroute.types import Arm

ANSWER_FLOOR_TOKENS = 256
"""Tokens kept for the answer when a cap must be shared with thinking (see `budgeted`)."""


def build(
    arm: Arm,
    thinking: ThinkingFormat,
    max_tokens: int | None,
    answer_floor_tokens: int = ANSWER_FLOOR_TOKENS,
) -> Program:
    """A fresh program for one request.

    Args:
        arm: What to run.
        thinking: The thinking format of the arm's first model.
        max_tokens: The caller's cap on generated tokens, thinking included.
        answer_floor_tokens: Tokens reserved for the answer by programs that can cut the thinking.

    Raises:
        ConfigError: no program of the arm's name.
    """
    if arm.program == "direct":
        return direct(arm.models[0], arm.effort, max_tokens)
    if arm.program == "budgeted":
        return budgeted(arm.models[0], arm.effort, max_tokens, thinking, answer_floor_tokens)
    raise ConfigError(f"unknown program {arm.program!r} of arm {arm.id!r}; known programs: direct, budgeted")
