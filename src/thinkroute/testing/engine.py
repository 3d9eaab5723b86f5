"""`ScriptedEngine`: a deterministic `Engine` without models, for testing programs and gateways.

It honours the parts of the contract that programs depend on: the prefix, `until_thinking_end`, `until_text` (at the end
of a word), `max_tokens`, thinking on and off, streaming, errors in the middle, and being closed early.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

from thinkroute.errors import EngineUnavailable
from thinkroute.programs.protocol import Call, Chunk, Segment, SegmentFinish
from thinkroute.testing.reply import THINKING, Reply, tokens
from thinkroute.types import Usage
from thinkroute.wire.raw_prompt import text_of
from thinkroute.wire.thinking import ThinkingSplitter

Script = Callable[[Call], Reply] | Sequence[Reply | str] | Reply | str


class ScriptedEngine:
    """Answers from a script and remembers every call.

    A script is a function of the call, one reply for all calls, or a sequence with one reply a call (a call beyond
    its end is an `EngineUnavailable`). A plain string is a reply without thinking.
    """

    def __init__(
        self, script: Script, *, token_delay_s: float = 0.0, stops_at_thinking_end: bool = True
    ) -> None:
        """`stops_at_thinking_end` False plays an engine that runs on into the answer, as HTTP servers do."""
        self._script = script
        self._token_delay_s = token_delay_s
        self._stops_at_thinking_end = stops_at_thinking_end
        self.calls: list[Call] = []
        self.active = 0
        """Generations begun and not yet ended."""
        self.closed_early = 0
        """Generations that were closed or cancelled before their segment."""

    async def start(self) -> None:
        """Nothing to acquire."""

    async def aclose(self) -> None:
        """Nothing to release."""

    async def generate(self, call: Call) -> AsyncGenerator[Chunk | Segment, None]:
        """Continue the call's message as the script says."""
        self.calls.append(call)
        reply = self._reply()
        self.active += 1
        complete = False
        began = time.perf_counter()
        message = _Message(call, reply, stops_at_thinking_end=self._stops_at_thinking_end)
        try:
            held: list[Chunk] = []
            for chunks in message.run():
                await asyncio.sleep(self._token_delay_s)
                held += chunks
                if call.stream:
                    for chunk in held:
                        yield chunk
                    held = []
            for chunk in _joined(held):
                yield chunk
            complete = True
            yield message.segment(time.perf_counter() - began)
        except Exception:
            complete = True
            raise
        finally:
            self.active -= 1
            self.closed_early += not complete

    def _reply(self) -> Reply:
        script = self._script
        if callable(script):
            return script(self.calls[-1])
        if isinstance(script, Reply | str):
            return _as_reply(script)
        if len(self.calls) > len(script):
            raise EngineUnavailable(f"the script has {len(script)} replies, this is call {len(self.calls)}")
        return _as_reply(script[len(self.calls) - 1])


class _Message:
    """One reply being said, token by token."""

    def __init__(self, call: Call, reply: Reply, *, stops_at_thinking_end: bool) -> None:
        self._call = call
        self._reply = reply
        self._prefix = call.prefix_text
        self._to_say = tokens(reply.continuation(self._prefix, thinks=call.effort.thinks))
        self._stops = call.until_thinking_end and stops_at_thinking_end
        open_block = bool(call.prefix) and not call.thinking_closed
        self._splitter = ThinkingSplitter(THINKING, "reasoning" if open_block else "answer")
        self._said: list[str] = []
        self._thought = 0
        self._finish: SegmentFinish = reply.finish

    def run(self) -> Iterator[list[Chunk]]:
        """The chunks of each token, and at last those held back."""
        for token in self._to_say:
            if len(self._said) == self._call.max_tokens:
                self._finish = "length"
                break
            self._fail_when_due()
            self._said.append(token)
            thinking_before = self._splitter.thinking
            pieces = self._splitter.feed(token)
            self._thought += thinking_before or self._splitter.thinking
            yield [Chunk(channel, text) for channel, text in pieces]
            if self._stops and thinking_before and not self._splitter.thinking:
                self._finish = "thinking_end"
                break
            if self._call.until_text and token.rstrip().endswith(self._call.until_text):
                self._finish = "text_end"
                break
        else:
            self._fail_when_due()
        yield [Chunk(channel, text) for channel, text in self._splitter.close()]

    def segment(self, latency_s: float) -> Segment:
        """What was said."""
        prompt = sum(len(tokens(text_of(message.get("content")) or "")) for message in self._call.messages)
        return Segment(
            text="".join(self._said),
            owner=self._call.model,
            finish=self._finish,
            usage=Usage(
                prompt_tokens=prompt + len(tokens(self._prefix)),
                completion_tokens=len(self._said),
                reasoning_tokens=self._thought,
                provenance="counted",
            ),
            thinking_closed=self._call.thinking_closed or not self._splitter.thinking,
            latency_s=latency_s,
        )

    def _fail_when_due(self) -> None:
        if self._reply.error is not None and len(self._said) == self._reply.error_after_tokens:
            raise self._reply.error


def _as_reply(script: Reply | str) -> Reply:
    return Reply(script) if isinstance(script, str) else script


def _joined(chunks: Sequence[Chunk]) -> list[Chunk]:
    texts = {
        channel: "".join(c.text for c in chunks if c.channel == channel)
        for channel in ("reasoning", "answer")
    }
    return [Chunk(chunk.channel, texts.pop(chunk.channel)) for chunk in chunks if chunk.channel in texts]
