"""What a program may ask for. A program is a generator of effects; a driver performs them and sends results back.

The same program object runs under the async driver (gateway, streaming) and under a batched rollout driver
(training): an effect says *what*, never how. Every effect is answered with a `Segment`.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from thinkroute.errors import ThinkrouteError
from thinkroute.programs.asides import Asides
from thinkroute.programs.protocol import Segment, SegmentFinish, ThinkingFormat
from thinkroute.types import FORCED, Effort, Usage


@dataclass(frozen=True, slots=True)
class Generate:
    """Let `model` continue the assistant message. The segment joins the trajectory and is streamed."""

    model: str
    effort: Effort = Effort()
    max_tokens: int | None = None
    """Cap on this call's tokens, thinking included; None leaves it to the engine."""
    until_thinking_end: bool = False
    """Stop after the thinking block closes. An engine that cannot may run on; look at the segment."""
    until_text: str | None = None
    """Stop right after this text; see `Call.until_text`."""
    hides: Asides | None = None
    """Commands in what this model writes that the caller must not see."""
    without: Asides | None = None
    """Commands in the message so far that this model must not see."""
    timeout_s: float | None = None
    """Longest this call may take in all; None leaves it to the engine."""
    salvage: ThinkingFormat | None = None
    """What a failure leaves: None ends the run as failures do; with the model's format, what had come stays in the
    message and the reply is an `Interrupted`."""


@dataclass(frozen=True, slots=True)
class Append:
    """Write text into the assistant message on the program's own account."""

    text: str
    owner: str = FORCED
    closes_thinking: bool = False
    """Whether the text ends an open thinking block."""
    opens_thinking: bool = False
    """Whether the text ends inside a thinking block that it opens."""
    hidden: bool = False
    """Whether the caller does not see it."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A separate call whose answer comes back to the program and does not join the trajectory."""

    model: str
    messages: Sequence[Mapping[str, Any]]
    effort: Effort = Effort()
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """A whole answer that nobody sees yet: another program, run on the same prompt from the start of the message.

    Answered with a `Drafted`; a failure comes back in it instead of ending the run.
    """

    program: Program
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Laid over the caller's options for this draft alone, e.g. `logprobs`."""
    others: tuple[Draft, ...] = ()
    """Further drafts made at the same time; they come back in `Drafted.others`."""


@dataclass(frozen=True, slots=True)
class Adopt:
    """Make a draft the message: it replaces the trajectory and is shown to the caller, who had seen no answer yet."""

    draft: Drafted


@dataclass(frozen=True, slots=True)
class Return:
    """How a program ended: the finish reason the caller sees."""

    finish: SegmentFinish


@dataclass(frozen=True, slots=True)
class Drafted(Segment):
    """What became of a draft: its segments as one. After a failure it holds what had come until then."""

    parts: tuple[Segment, ...] = ()
    """Its trajectory."""
    failure: ThinkrouteError | None = None
    """Why there is no answer; None when there is one."""
    billed: Usage = Usage()
    """Tokens of all its legs, a second leg's prompt counted again."""
    cost_usd: float | None = None
    """Dollars of all its legs; None when any is unknown."""
    others: tuple[Drafted, ...] = ()


@dataclass(frozen=True, slots=True)
class Interrupted(Segment):
    """What had come of a call that failed; without text it does not join the trajectory."""

    failure: ThinkrouteError = field(default_factory=lambda: ThinkrouteError("the call failed"))


Effect = Generate | Append | Ask | Draft | Adopt
Program = Generator[Effect, Segment, Return]
