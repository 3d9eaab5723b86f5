"""What a program may ask for. A program is a generator of effects; a driver performs them and sends results back.

The same program object runs under the async driver (gateway, streaming) and under a batched rollout driver
(training): an effect says *what*, never how. Every effect is answered with a `Segment`.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thinkroute.programs.protocol import Segment, SegmentFinish
from thinkroute.types import FORCED, Effort


@dataclass(frozen=True, slots=True)
class Generate:
    """Let `model` continue the assistant message. The segment joins the trajectory and is streamed."""

    model: str
    effort: Effort = Effort()
    max_tokens: int | None = None
    """Cap on this call's tokens, thinking included; None leaves it to the engine."""
    until_thinking_end: bool = False
    """Stop after the thinking block closes. An engine that cannot may run on; look at the segment."""


@dataclass(frozen=True, slots=True)
class Append:
    """Write text into the assistant message on the program's own account."""

    text: str
    owner: str = FORCED
    closes_thinking: bool = False
    """Whether the text ends an open thinking block."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A separate call whose answer comes back to the program and does not join the trajectory."""

    model: str
    messages: Sequence[Mapping[str, Any]]
    effort: Effort = Effort()
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Return:
    """How a program ended: the finish reason the caller sees."""

    finish: SegmentFinish


Effect = Generate | Append | Ask
Program = Generator[Effect, Segment, Return]
