"""Drivers perform a program's effects. `Run` streams one over engines; `run_batch` runs many in lock-step.

Neither knows any program, and no program knows a driver: that is what makes training and serving the same code.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from thinkroute.errors import (
    EngineProtocolError,
    EngineRejected,
    EngineUnavailable,
    Overloaded,
    RequestError,
    ThinkrouteError,
)
from thinkroute.programs.effects import Append, Ask, Effect, Generate, Program, Return
from thinkroute.programs.protocol import Call, Chunk, Engine, Segment, SegmentFinish
from thinkroute.types import Channel, Ledger, LedgerEntry, Price, Usage, estimate_tokens


@dataclass(frozen=True, slots=True)
class Prompt:
    """What every effect of a run shares: the conversation and the caller's other fields."""

    messages: Sequence[Mapping[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Fields forwarded to every model of the run (sampling, stop, tools, unknown ones)."""
    stream: bool = True


@dataclass(frozen=True, slots=True)
class Delta:
    """Text for the caller, as it comes."""

    channel: Channel
    text: str
    owner: str
    chunk: Chunk | None = None
    """The engine's chunk it came from; None for text a program wrote."""


class Run:
    """One program being run over engines for one caller.

    Iterate `events()` once, to its end or until closed; then, however it ended, `ledger` holds every leg begun,
    `segments` the trajectory, and `finish` the finish reason (None unless the program returned). Closing the
    iterator closes the engine call under way; its leg is recorded as `cancelled` with estimated tokens.
    """

    def __init__(
        self, program: Program, prompt: Prompt, engines: Mapping[str, Engine], prices: Mapping[str, Price]
    ) -> None:
        self._program = program
        self._prompt = prompt
        self._engines = engines
        self._prices = prices
        self.ledger = Ledger()
        self.segments: list[Segment] = []
        self.finish: SegmentFinish | None = None

    async def events(self) -> AsyncGenerator[Delta, None]:
        """Perform the effects, yielding text as it comes.

        Raises:
            EngineError: an engine failed. What was yielded before stays valid.
        """
        reply: Segment | None = None
        while True:
            effect = self._advance(reply)
            if isinstance(effect, Return):
                self.finish = effect.finish
                return
            if isinstance(effect, Append):
                channel: Channel = "reasoning" if _inside_thinking(self.segments) else "answer"
                reply = _appended(effect, self.segments)
                self.segments.append(reply)
                if text := visible_text(effect):
                    yield Delta(channel, text, effect.owner)
                continue
            call = _call(effect, self._prompt, self.segments)
            streamed = isinstance(effect, Generate)
            with self._measured(call) as leg:
                async with aclosing(self._engines[call.model].generate(call)) as items:
                    async for item in items:
                        leg.see(item)
                        if isinstance(item, Segment):
                            reply = item
                        elif streamed:
                            yield Delta(item.channel, item.text, call.model, item)
            if streamed and reply is not None:
                self.segments.append(reply)

    def _advance(self, reply: Segment | None) -> Effect | Return:
        try:
            return next(self._program) if reply is None else self._program.send(reply)
        except StopIteration as stop:
            return stop.value

    @contextmanager
    def _measured(self, call: Call) -> Generator[_LegMeter, None, None]:
        """Meter a call and put its leg into the ledger, however it ends."""
        leg = _LegMeter(call)
        try:
            yield leg
            leg.end()
        except ThinkrouteError as failure:
            leg.failed(failure)
            raise
        except Exception:
            leg.error = ThinkrouteError.code
            raise
        finally:
            self.ledger = self.ledger.add(leg.entry(self._prices.get(call.model)))


class _LegMeter:
    """Measures one engine call; estimates its tokens when it is cut before the engine could count them."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._started = time.perf_counter()
        self._ttft_s: float | None = None
        self._chars: dict[Channel, int] = {"reasoning": 0, "answer": 0}
        self._segment: Segment | None = None
        self._reached = True
        self.error: str | None = "cancelled"

    def failed(self, failure: ThinkrouteError) -> None:
        """Note a failure; one that reached no model is known to have cost nothing."""
        self.error = failure.code
        if isinstance(failure, EngineUnavailable):
            self._reached = failure.reached
        elif isinstance(failure, EngineRejected):
            self._reached = not 400 <= failure.status < 500 or failure.status in (408, 499)
        else:
            self._reached = not isinstance(failure, RequestError | Overloaded)

    def see(self, item: Chunk | Segment) -> None:
        if isinstance(item, Segment):
            self._segment = item
            return
        if self._ttft_s is None:
            self._ttft_s = time.perf_counter() - self._started
        self._chars[item.channel] += len(item.text)

    def end(self) -> None:
        if self._segment is None:
            self.error = EngineProtocolError.code
            raise EngineProtocolError(f"the engine of model {self._call.model!r} ended without a segment")
        self.error = None

    def entry(self, price: Price | None) -> LedgerEntry:
        usage = self._segment.usage if self._segment else self._estimate()
        known = price is not None and usage.provenance != "unknown"
        return LedgerEntry(
            owner=self._call.model,
            usage=usage,
            cost_usd=price.cost_usd(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
            if price is not None and known
            else None,
            latency_s=time.perf_counter() - self._started,
            ttft_s=(self._segment and self._segment.ttft_s) or self._ttft_s,
            finish_reason=self._segment.finish if self._segment else None,
            error=self.error,
        )

    def _estimate(self) -> Usage:
        if self._ttft_s is None:
            # The model may have worked for a while: what that costs is unknown, not nothing.
            return Usage(provenance="unknown" if self._reached else "counted")
        reasoning = estimate_tokens(self._chars["reasoning"])
        prompt_chars = sum(len(str(message.get("content") or "")) for message in self._call.messages)
        prompt_chars += sum(len(segment.text) for segment in self._call.prefix)
        return Usage(
            prompt_tokens=estimate_tokens(prompt_chars),
            completion_tokens=reasoning + estimate_tokens(self._chars["answer"]),
            reasoning_tokens=reasoning,
            provenance="estimated",
        )


def run_batch(
    programs: Sequence[Program],
    prompts: Sequence[Prompt],
    generate: Callable[[Sequence[Call]], Sequence[Segment]],
) -> list[tuple[tuple[Segment, ...], SegmentFinish]]:
    """Run many programs in lock-step: each round, all pending calls go to `generate` in one batch.

    The rollout driver of training: same program objects, same segments as `Run` under greedy decoding.

    Args:
        programs: Fresh program objects.
        prompts: One per program.
        generate: Answers a batch of calls (any models) with one segment each, in order.

    Returns:
        Per program, in order: its trajectory and its finish reason.
    """
    trajectories: list[list[Segment]] = [[] for _ in programs]
    finishes: dict[int, SegmentFinish] = {}
    pending: dict[int, Generate | Ask] = {}

    def advance(index: int, reply: Segment | None) -> None:
        while True:
            try:
                effect = next(programs[index]) if reply is None else programs[index].send(reply)
            except StopIteration as stop:
                finishes[index] = stop.value.finish
                return
            if not isinstance(effect, Append):
                pending[index] = effect
                return
            reply = _appended(effect, trajectories[index])
            trajectories[index].append(reply)

    for index in range(len(programs)):
        advance(index, None)
    while pending:
        batch = list(pending.items())
        pending.clear()
        replies = generate([_call(effect, prompts[i], trajectories[i]) for i, effect in batch])
        for (index, effect), reply in zip(batch, replies, strict=True):
            if isinstance(effect, Generate):
                trajectories[index].append(reply)
            advance(index, reply)
    return [(tuple(trajectories[i]), finishes[i]) for i in range(len(programs))]


def visible_text(effect: Append) -> str:
    """What a caller should read of forced text: the stop text, but not the tag that closes the block."""
    return effect.text.rsplit("</", 1)[0].removesuffix("\n") if effect.closes_thinking else effect.text


def _inside_thinking(segments: Sequence[Segment]) -> bool:
    return bool(segments) and not segments[-1].thinking_closed


def _appended(effect: Append, segments: Sequence[Segment]) -> Segment:
    closed = effect.closes_thinking or not _inside_thinking(segments)
    return Segment(text=effect.text, owner=effect.owner, thinking_closed=closed)


def _call(effect: Generate | Ask, prompt: Prompt, segments: Sequence[Segment]) -> Call:
    if isinstance(effect, Ask):
        return Call(effect.model, effect.messages, effect.effort, max_tokens=effect.max_tokens, stream=False)
    return Call(
        model=effect.model,
        messages=prompt.messages,
        effort=effect.effort,
        prefix=tuple(segments),
        max_tokens=effect.max_tokens,
        until_thinking_end=effect.until_thinking_end,
        stream=prompt.stream,
        options=prompt.options,
    )
