"""How an arm answers: a small generator per way of answering, and the drivers that run them."""

from __future__ import annotations

from thinkroute.errors import ConfigError
from thinkroute.programs.adaptive import DecisionPoint, DialLog, adaptive
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
    point: DecisionPoint | None = None,
    log: DialLog | None = None,
) -> Program:
    """A fresh program for one request.

    Args:
        arm: What to run.
        thinking: The thinking format of the arm's first model.
        max_tokens: The caller's cap on generated tokens, thinking included.
        answer_floor_tokens: Tokens reserved for the answer by programs that can cut the thinking.
        point: Where the arm's model decides whether to think; only `adaptive` needs it.
        log: Filled in by `adaptive`.

    Raises:
        ConfigError: no program of the arm's name, or the model does not decide for itself.
    """
    if arm.program == "direct":
        return direct(arm.models[0], arm.effort, max_tokens)
    if arm.program == "budgeted":
        return budgeted(arm.models[0], arm.effort, max_tokens, thinking, answer_floor_tokens)
    if arm.program == "adaptive":
        if point is None or arm.effort.threshold is None:
            raise ConfigError(f"arm {arm.id!r}: its model does not decide for itself whether to think")
        log = log or DialLog(arm.effort.threshold)
        return adaptive(arm.models[0], max_tokens, thinking, point, answer_floor_tokens, log)
    raise ConfigError(
        f"unknown program {arm.program!r} of arm {arm.id!r}; known programs: direct, budgeted, adaptive"
    )
