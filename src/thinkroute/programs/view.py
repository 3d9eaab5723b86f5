"""What a caller sees of one call as it arrives, and what is left of the call when it fails.

Owns hiding commands from the stream and putting an interrupted text together again. Does not own the call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from thinkroute.errors import ThinkrouteError
from thinkroute.programs.asides import AsideFilter
from thinkroute.programs.effects import Ask, Generate, Interrupted
from thinkroute.programs.protocol import Chunk, ThinkingFormat
from thinkroute.types import Channel, Usage, estimate_tokens


class View:
    """One call's text on its way to the caller. An `Ask` shows nothing.

    Args:
        effect: What was asked for.
        inside_thinking: Whether the message was inside a thinking block before it.
    """

    def __init__(self, effect: Generate | Ask, *, inside_thinking: bool) -> None:
        self._shows = isinstance(effect, Generate)
        self._salvage = effect.salvage if isinstance(effect, Generate) else None
        hides = effect.hides if isinstance(effect, Generate) else None
        self._filter = AsideFilter(hides) if hides else None
        self._channel: Channel = "answer"
        self._inside_thinking = inside_thinking
        self._texts: dict[Channel, list[str]] = {"reasoning": [], "answer": []}

    def show(self, chunk: Chunk) -> Iterator[Chunk]:
        """The chunks to show now that this one has come."""
        if not self._shows:
            return
        if self._salvage is not None:
            self._texts[chunk.channel].append(chunk.text)
        if self._filter is None:
            yield chunk
            return
        if chunk.channel != self._channel:
            yield from self.rest()  # a command does not reach from the thought into the answer
            self._channel = chunk.channel
        text = self._filter.feed(chunk.text)
        if text == chunk.text:
            yield chunk
        elif text or chunk.upstream:
            yield replace(chunk, text=text, logprobs=None)

    def rest(self) -> Iterator[Chunk]:
        """What was held back, now that the call has ended."""
        text = self._filter.close() if self._filter else ""
        if text:
            yield Chunk(self._channel, text)

    def interrupted(self, owner: str, failure: ThinkrouteError) -> Interrupted | None:
        """What had come before the failure; None when the call was not to be salvaged."""
        if self._salvage is None:
            return None
        text, closed = self._raw(self._salvage)
        thought, answer = (estimate_tokens(len("".join(parts))) for parts in self._texts.values())
        usage = Usage(completion_tokens=thought + answer, reasoning_tokens=thought, provenance="estimated")
        return Interrupted(text, owner, usage=usage, thinking_closed=closed, failure=failure)

    def _raw(self, thinking: ThinkingFormat) -> tuple[str, bool]:
        """The message as far as it was seen, and whether it ends outside a thinking block."""
        thought, answer = ("".join(parts) for parts in self._texts.values())
        in_block = self._inside_thinking or bool(thought)
        opening = thinking.open_text if thought and not self._inside_thinking else ""
        closing = thinking.close_text if answer and in_block else ""
        return opening + thought + closing + answer, bool(answer) or not in_block
