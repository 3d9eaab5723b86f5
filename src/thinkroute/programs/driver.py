"""Drivers perform a program's effects. `Run` streams one over engines; `run_batch` runs many in lock-step.

Neither knows any program, and no program knows a driver: that is what makes training and serving the same code.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from thinkroute.errors import (
    EngineProtocolError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
    Overloaded,
    RequestError,
    ThinkrouteError,
)
from thinkroute.programs.effects import (
    Adopt,
    Append,
    Ask,
    Draft,
    Drafted,
    Effect,
    Generate,
    Interrupted,
    Program,
    Return,
)
from thinkroute.programs.protocol import Call, Chunk, Engine, Segment, SegmentFinish, Upstream
from thinkroute.programs.view import View
from thinkroute.types import FORCED, Channel, Ledger, LedgerEntry, Price, Usage, estimate_tokens


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
        self._engines = engines
        self._prices = prices
        self._message = _Message(program, prompt)
        self.ledger = Ledger()

    @property
    def segments(self) -> list[Segment]:
        """The trajectory so far."""
        return self._message.segments

    @property
    def finish(self) -> SegmentFinish | None:
        """Why it ended; None unless the program returned."""
        return self._message.finish

    def events(self) -> AsyncGenerator[Delta, None]:
        """Perform the effects, yielding text as it comes.

        A failing call is first put to the program, which may have a draft to fall back on, as long as no answer was
        shown; a program that does not catch it ends with it.

        Raises:
            EngineError: an engine failed. What was yielded before stays valid.
        """
        return self._perform(self._message, [])

    async def _perform(self, message: _Message, legs: list[LedgerEntry]) -> AsyncGenerator[Delta, None]:
        """Write one message, yielding its text; its legs are noted in `legs` beside the ledger."""
        effect = message.begin()
        while not isinstance(effect, Return):
            reply: Segment | None = None
            if isinstance(effect, Append | Draft | Adopt):
                reply, deltas = await self._settle(effect, message)
                for delta in deltas:
                    yield delta
            else:
                try:
                    async with aclosing(self._leg(effect, message, legs)) as items:
                        async for item in items:
                            if isinstance(item, Delta):
                                yield item
                            else:
                                reply = item
                except ThinkrouteError as failure:
                    if message.answered:
                        raise
                    effect = message.fail(failure)
                    continue
            effect = message.advance(reply)
        message.finish = effect.finish

    async def _leg(
        self, effect: Generate | Ask, message: _Message, legs: list[LedgerEntry]
    ) -> AsyncGenerator[Delta | Segment, None]:
        """Perform one engine call: what the caller sees of it, then the reply."""
        call = _call(effect, message.prompt, message.segments)
        view = View(effect, inside_thinking=_inside_thinking(message.segments))
        reply: Segment | None = None
        try:
            with self._measured(call, legs) as leg:
                async with aclosing(self._items(call, effect)) as items:
                    async for item in items:
                        leg.see(item)
                        if isinstance(item, Segment):
                            reply = item
                            continue
                        for chunk in view.show(item):
                            message.answered = message.answered or chunk.channel == "answer"
                            yield Delta(chunk.channel, chunk.text, call.model, chunk)
        except ThinkrouteError as failure:
            reply = view.interrupted(call.model, failure)
            if reply is None:
                raise
        for chunk in view.rest():
            yield Delta(chunk.channel, chunk.text, call.model, chunk)
        if reply is not None:
            if isinstance(effect, Generate):
                message.add(reply)
            yield reply

    async def _items(self, call: Call, effect: Generate | Ask) -> AsyncGenerator[Chunk | Segment, None]:
        """What the engine says, under the effect's own time limit."""
        limit_s = effect.timeout_s if isinstance(effect, Generate) else None
        deadline = None if limit_s is None else asyncio.get_running_loop().time() + limit_s
        async with aclosing(self._engines[call.model].generate(call)) as items:
            while True:
                try:
                    async with asyncio.timeout_at(deadline):
                        item = await anext(items, None)
                except TimeoutError:
                    raise EngineTimeout(
                        f"model {call.model!r} did not end its part of the answer within {limit_s:g} s"
                    ) from None
                if item is None:
                    return
                yield item

    async def _settle(
        self, effect: Append | Draft | Adopt, message: _Message
    ) -> tuple[Segment, Sequence[Delta]]:
        """Perform an effect that is no call of this message; returns its reply and what the caller sees of it."""
        if isinstance(effect, Draft):
            return await self._draft(effect, message.prompt), ()
        if isinstance(effect, Adopt):
            message.segments[:] = effect.draft.parts
            return effect.draft, _deltas_of(effect.draft)
        channel: Channel = "reasoning" if _inside_thinking(message.segments) else "answer"
        reply = _appended(effect, message.segments)
        message.segments.append(reply)
        text = visible_text(effect)
        return reply, (Delta(channel, text, effect.owner),) if text else ()

    async def _draft(self, effect: Draft, prompt: Prompt) -> Drafted:
        """Write drafts that nobody sees, all at once."""
        if not effect.others:
            return await self._draft_one(effect, prompt)
        first, *others = await asyncio.gather(
            *(self._draft_one(draft, prompt) for draft in (effect, *effect.others))
        )
        return replace(first, others=tuple(others))

    async def _draft_one(self, draft: Draft, prompt: Prompt) -> _Recorded:
        """Write one draft; what the caller did not ask for (log-probabilities) is kept from their sight."""
        message = _Message(draft.program, _hidden(draft, prompt))
        legs, deltas = list[LedgerEntry](), list[Delta]()
        failure: ThinkrouteError | None = None
        try:
            async with aclosing(self._perform(message, legs)) as written:
                async for delta in written:
                    deltas.append(delta)
        except ThinkrouteError as error:
            failure = error
        quiet = not prompt.options.get("logprobs")
        drafted = _drafted(message.segments, message.finish, quiet=quiet)
        ledger = Ledger(tuple(legs))
        return _Recorded(
            **drafted,
            failure=failure,
            billed=ledger.usage,
            cost_usd=ledger.cost_usd,
            deltas=tuple(_quiet_delta(delta) if quiet else delta for delta in deltas),
        )

    @contextmanager
    def _measured(self, call: Call, legs: list[LedgerEntry]) -> Generator[_LegMeter, None, None]:
        """Meter a call and put its leg into the ledger and `legs`, however it ends."""
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
            entry = leg.entry(self._prices.get(call.model))
            legs.append(entry)
            self.ledger = self.ledger.add(entry)


@dataclass(frozen=True, slots=True)
class _Recorded(Drafted):
    """A draft with what the caller will see of it, should it be adopted."""

    deltas: tuple[Delta, ...] = ()


def _hidden(draft: Draft, prompt: Prompt) -> Prompt:
    return Prompt(prompt.messages, {**prompt.options, **draft.options}, stream=False)


def _drafted(segments: Sequence[Segment], finish: SegmentFinish | None, *, quiet: bool) -> dict[str, Any]:
    """The fields of a `Drafted` that its trajectory gives; `quiet` keeps log-probabilities out of its parts."""
    usages = [segment.usage for segment in segments if segment.owner != FORCED]
    logprobs = [token for segment in segments for token in segment.logprobs or ()]
    return {
        "text": "".join(segment.text for segment in segments),
        "owner": segments[-1].owner if segments else FORCED,
        "finish": finish or "stop",
        "logprobs": tuple(logprobs) or None,
        "usage": sum(usages[1:], usages[0]) if usages else Usage(),
        "thinking_closed": not segments or segments[-1].thinking_closed,
        "latency_s": sum(segment.latency_s for segment in segments),
        "parts": tuple(_quiet_segment(segment) for segment in segments) if quiet else tuple(segments),
    }


def _deltas_of(draft: Drafted) -> Sequence[Delta]:
    if not isinstance(draft, _Recorded):
        raise TypeError("a program may adopt only what a draft of its own was answered with")
    return draft.deltas


def _quiet_delta(delta: Delta) -> Delta:
    if delta.chunk is None:
        return delta
    chunk = replace(delta.chunk, logprobs=None, upstream=_without_logprobs(delta.chunk.upstream))
    return replace(delta, chunk=chunk)


def _quiet_segment(segment: Segment) -> Segment:
    return replace(segment, logprobs=None, upstream=_without_logprobs(segment.upstream))


def _without_logprobs(upstream: Upstream) -> Upstream:
    choice: Mapping[str, Any] = upstream.get("choice", {})
    if "logprobs" not in choice:
        return upstream
    return {**upstream, "choice": {name: value for name, value in choice.items() if name != "logprobs"}}


class _Message:
    """One assistant message being written by one program."""

    __slots__ = ("_program", "answered", "finish", "prompt", "segments")

    def __init__(self, program: Program, prompt: Prompt) -> None:
        self._program = program
        self.prompt = prompt
        self.segments: list[Segment] = []
        self.finish: SegmentFinish | None = None
        self.answered = False
        """Whether the caller may have seen text of the answer, which no failure can take back."""

    def add(self, reply: Segment) -> None:
        """Let a reply join the trajectory, unless it is a failure that left nothing."""
        if reply.text or not isinstance(reply, Interrupted):
            self.segments.append(reply)

    def begin(self) -> Effect | Return:
        """What the program asks for first."""
        return self._taken(lambda: next(self._program))

    def advance(self, reply: Segment | None) -> Effect | Return:
        """What it asks for after a reply."""
        return self._taken(lambda: self._program.send(reply) if reply is not None else next(self._program))

    def fail(self, failure: ThinkrouteError) -> Effect | Return:
        """What it asks for instead of a call that failed; the failure itself when it has no answer to that."""
        return self._taken(lambda: self._program.throw(failure))

    def _taken(self, take: Callable[[], Effect]) -> Effect | Return:
        try:
            return take()
        except StopIteration as stop:
            return stop.value


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
        prompt_chars += len(self._call.prefix_text)
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
    batch = [_InStep(program, prompt) for program, prompt in zip(programs, prompts, strict=True)]
    while waiting := [each for message in batch for each in message.waiting()]:
        replies = generate([each.call for each in waiting])
        for each, reply in zip(waiting, replies, strict=True):
            each.answer(reply)
    return [message.result() for message in batch]


class _InStep:
    """One message written in lock-step with others: it stops wherever an engine, or a draft of its own, is awaited."""

    def __init__(self, program: Program, prompt: Prompt) -> None:
        self._message = _Message(program, prompt)
        self._drafts: list[_InStep] = []
        self._effect = self._until_awaited(self._message.begin())

    @property
    def call(self) -> Call:
        """The call it waits for."""
        assert isinstance(self._effect, Generate | Ask)  # noqa: S101 - only those are in `waiting`
        return _call(self._effect, self._message.prompt, self._message.segments)

    def waiting(self) -> list[_InStep]:
        """The messages that wait for an engine: this one, or its drafts; none when it is done."""
        while isinstance(self._effect, Draft):
            waiting = [each for draft in self._drafts for each in draft.waiting()]
            if waiting:
                return waiting
            first, *others = (draft.drafted() for draft in self._drafts)
            self._effect = self._until_awaited(self._message.advance(replace(first, others=tuple(others))))
        return [] if isinstance(self._effect, Return) else [self]

    def answer(self, reply: Segment) -> None:
        """Take what the engine said."""
        if isinstance(self._effect, Generate):
            self._message.segments.append(reply)
        self._effect = self._until_awaited(self._message.advance(reply))

    def result(self) -> tuple[tuple[Segment, ...], SegmentFinish]:
        """Trajectory and finish reason of a message that is done."""
        assert isinstance(self._effect, Return)  # noqa: S101 - nothing waits any more
        return tuple(self._message.segments), self._effect.finish

    def drafted(self) -> Drafted:
        """A message that is done, as the reply to the draft it was."""
        segments, finish = self.result()
        fields = _drafted(segments, finish, quiet=False)
        return Drafted(**fields, billed=fields["usage"])

    def _until_awaited(self, effect: Effect | Return) -> Effect | Return:
        """Perform what needs no engine; returns what does, or the end."""
        segments = self._message.segments
        while isinstance(effect, Append | Adopt):
            reply: Segment = effect.draft if isinstance(effect, Adopt) else _appended(effect, segments)
            if isinstance(effect, Adopt):
                segments[:] = effect.draft.parts
            else:
                segments.append(reply)
            effect = self._message.advance(reply)
        if isinstance(effect, Draft):
            prompt = self._message.prompt
            every = (effect, *effect.others)
            self._drafts = [_InStep(draft.program, _hidden(draft, prompt)) for draft in every]
        return effect


def visible_text(effect: Append) -> str:
    """What a caller should read of forced text: the stop text, but not the tag that closes the block."""
    if effect.hidden:
        return ""
    return effect.text.rsplit("</", 1)[0].removesuffix("\n") if effect.closes_thinking else effect.text


def _inside_thinking(segments: Sequence[Segment]) -> bool:
    return bool(segments) and not segments[-1].thinking_closed


def _appended(effect: Append, segments: Sequence[Segment]) -> Segment:
    closed = effect.closes_thinking or not (effect.opens_thinking or _inside_thinking(segments))
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
        until_text=effect.until_text,
        without=effect.without,
        stream=prompt.stream,
        options=prompt.options,
    )
