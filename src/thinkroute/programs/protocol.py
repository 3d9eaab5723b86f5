"""The seam between programs and whatever generates: segments, calls, chunks and the `Engine` contract.

Owned here because programs sit below engines: a driver turns an effect into a `Call`, an engine turns the call
into `Chunk`s and, last, exactly one `Segment`. Text in a segment is *raw* (thinking tags included), so that
concatenating the segments of a trajectory is the assistant message as the model wrote it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from thinkroute.programs.asides import Asides
from thinkroute.types import Channel, Effort, Usage

SegmentFinish = Literal["stop", "length", "thinking_end", "text_end", "tool_calls", "content_filter"]


Upstream = Mapping[str, Any]
"""Upstream fields kept for the caller, in up to three groups: `body` (beside `choices`: system_fingerprint,
service_tier), `choice` (beside `message` or `delta`: logprobs) and `message` (inside it: tool_calls, refusal)."""


@dataclass(frozen=True, slots=True)
class ThinkingFormat:
    """How one model family writes thinking. Data from the catalog."""

    open_text: str = "<think>\n"
    """Raw text that starts a thinking block."""
    close_text: str = "\n</think>\n\n"
    """Raw text that ends it; the answer follows."""
    stop_text: str = "I have to give the answer now."
    """What a budget writes into the block before closing it, so that the model is not cut mid-sentence."""

    @property
    def close_tag(self) -> str:
        """The tag alone, without white space."""
        return self.close_text.strip()

    @property
    def open_tag(self) -> str:
        """The tag alone, without white space."""
        return self.open_text.strip()


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability of one generated token under the distribution it was sampled from."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()
    """Most likely alternatives, best first."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive text of one owner in an assistant message."""

    text: str
    """Raw text, thinking tags included."""
    owner: str
    """Model name, or `FORCED` for text a program wrote."""
    finish: SegmentFinish = "stop"
    """Why it ended; `thinking_end` and `text_end` when asked to stop after the close tag or a text and it came."""
    token_ids: tuple[int, ...] | None = None
    """Exact ids where the engine knows them; never obtained by encoding text again."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """One per token id when asked for."""
    usage: Usage = Usage()
    """Tokens of the call that made it."""
    thinking_closed: bool = True
    """False when the message so far, this segment included, ends inside a thinking block."""
    ttft_s: float | None = None
    latency_s: float = 0.0
    upstream: Upstream = field(default_factory=dict[str, Any])
    """Fields of the upstream's response that we do not own; grouped as `Upstream` says."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a segment as it arrives."""

    channel: Channel
    text: str
    logprobs: tuple[TokenLogprob, ...] | None = None
    upstream: Upstream = field(default_factory=dict[str, Any])
    """Fields of the upstream's chunk that we do not own; grouped as `Upstream` says."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request to an engine: continue this conversation."""

    model: str
    """Model name from the configuration."""
    messages: Sequence[Mapping[str, Any]]
    """The conversation in OpenAI's message shape, unknown fields included."""
    effort: Effort = Effort()
    prefix: tuple[Segment, ...] = ()
    """What the assistant message already holds; the engine continues after it."""
    max_tokens: int | None = None
    """Cap on tokens of this call; None leaves it to the engine."""
    until_thinking_end: bool = False
    """Stop right after the close tag where the engine can; one that cannot may run on into the answer."""
    until_text: str | None = None
    """Stop right after this text, wherever in the message it comes; it stays in the segment where the engine can keep it.
    A server that takes it away and does not say so ends with `stop`."""
    without: Asides | None = None
    """Commands in the prefix that this model must not see."""
    stream: bool = True
    """Whether chunks should arrive as they are made; otherwise they may all come at the end, but they do come."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Every other field of the caller's request (sampling, stop, seed, logprobs, tools, unknown ones)."""

    @property
    def thinking_closed(self) -> bool:
        """Whether the prefix ends outside a thinking block, after one."""
        return bool(self.prefix) and self.prefix[-1].thinking_closed

    @property
    def prefix_text(self) -> str:
        """The raw assistant message so far, as this model sees it."""
        text = "".join(segment.text for segment in self.prefix)
        return text if self.without is None else self.without.removed(text)


class Engine(Protocol):
    """Something that generates.

    `generate` yields any number of chunks, then exactly one `Segment` as its last item. Closing the generator
    early (`aclose`) stops the generation and frees its resources within a second. Failures are raised as
    `thinkroute.errors.EngineError` subclasses, never as third-party exceptions.
    """

    def generate(self, call: Call) -> AsyncGenerator[Chunk | Segment, None]:
        """Continue `call.messages` + `call.prefix`."""
        ...

    async def start(self) -> None:
        """Acquire what generating needs (sessions, weights). Called once, on the serving event loop."""
        ...

    async def aclose(self) -> None:
        """Release everything; generations under way end with an error."""
        ...
