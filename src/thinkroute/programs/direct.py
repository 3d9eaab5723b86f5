"""`direct`: one model, one call, at one effort. Thinking is on, off or left to the model's default."""

from __future__ import annotations

from thinkroute.programs.effects import Generate, Program, Return
from thinkroute.types import Effort


def direct(model: str, effort: Effort, max_tokens: int | None) -> Program:
    """Answer in one call; `max_tokens` caps thinking and answer together."""
    segment = yield Generate(model, effort, max_tokens)
    return Return(segment.finish)
