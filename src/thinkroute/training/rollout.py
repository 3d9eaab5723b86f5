"""Rollouts: the gateway's own programs, run in batches, kept as trajectories with exact ids. No torch.

Owns the bookkeeping between segments and trajectories. The programs are those of `thinkroute.programs`; the driver is
`run_batch`. What the sampler decides in the learner's place (a forced first token) stands in front of any program, as
an `Opening`, and carries the sampler's own log-probability.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from thinkroute.programs.driver import Prompt, run_batch
from thinkroute.programs.effects import Append, Program
from thinkroute.programs.protocol import Call, Segment, SegmentFinish
from thinkroute.training.samplers import Sampler
from thinkroute.training.trajectory import Span, Trajectory
from thinkroute.types import FORCED, Ledger, LedgerEntry


@dataclass(frozen=True, slots=True)
class Opening:
    """Tokens the sampler writes at the beginning of a response."""

    text: str
    logprobs: tuple[float | None, ...]
    """One per token: the probability with which the sampler drew it, or None for a token that was no choice."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One response to be made."""

    messages: Sequence[Mapping[str, Any]]
    program: Program
    opening: Opening | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Sampling options, as a caller of the gateway would give them."""


def opened(text: str, program: Program) -> Program:
    """A program whose response begins with a given text."""
    yield Append(text)
    return (yield from program)


class _Recorder:
    """Remembers what ids every call of every trajectory continued."""

    def __init__(self, sampler: Sampler, prompts: Sequence[Prompt]) -> None:
        self._sampler = sampler
        # A call carries its run's messages: that is what tells a run's own calls from what its program asks others.
        self._runs = {id(prompt.messages): index for index, prompt in enumerate(prompts)}
        self.inputs: list[list[list[int]]] = [[] for _ in prompts]

    def generate(self, calls: Sequence[Call]) -> Sequence[Segment]:
        for call in calls:
            if (index := self._runs.get(id(call.messages))) is not None:
                # Commands that this model must not see are in the trajectory all the same.
                self.inputs[index].append(self._sampler.prompt_ids(replace(call, without=None)))
        return self._sampler.generate(calls)


def roll_out(attempts: Sequence[Attempt], sampler: Sampler) -> list[Trajectory]:
    """Run all attempts in lock-step; one trajectory each, in order.

    Raises:
        ValueError: an engine worked on other ids than the trajectory holds, or named no ids at all.
    """
    prompts = [Prompt(list(attempt.messages), attempt.options, stream=False) for attempt in attempts]
    recorder = _Recorder(sampler, prompts)
    programs = [
        opened(attempt.opening.text, attempt.program) if attempt.opening else attempt.program
        for attempt in attempts
    ]
    runs = run_batch(programs, prompts, recorder.generate)
    return [
        _trajectory(attempt, segments, finish, inputs, sampler)
        for attempt, (segments, finish), inputs in zip(attempts, runs, recorder.inputs, strict=True)
    ]


def _trajectory(
    attempt: Attempt,
    segments: Sequence[Segment],
    finish: SegmentFinish,
    inputs: Sequence[list[int]],
    sampler: Sampler,
) -> Trajectory:
    spans = [
        _span(segment, sampler, attempt.opening if place == 0 else None)
        for place, segment in enumerate(segments)
    ]
    generated = [place for place, segment in enumerate(segments) if segment.owner != FORCED]
    first = inputs[0]
    before = sum(len(span.ids) for span in spans[: generated[0]])
    prompt_ids = tuple(first[: len(first) - before])
    for place, given in zip(generated, inputs, strict=True):
        held = [*prompt_ids, *(token_id for span in spans[:place] for token_id in span.ids)]
        if held != given:
            raise ValueError(
                f"the engine continued other ids than the trajectory holds, at segment {place} of "
                f"{attempt.messages[-1].get('content')!r}"
            )
    entries = tuple(
        LedgerEntry(segment.owner, segment.usage, None, segment.latency_s, segment.ttft_s, segment.finish)
        for segment in segments
        if segment.owner != FORCED
    )
    text = "".join(segment.text for segment in segments)
    return Trajectory(prompt_ids, tuple(spans), text, finish, Ledger(entries))


def _span(segment: Segment, sampler: Sampler, opening: Opening | None) -> Span:
    if segment.owner == FORCED:
        ids = tuple(sampler.encode(segment.text))
        if opening is not None and len(opening.logprobs) != len(ids):
            raise ValueError(
                f"opening {opening.text!r} has {len(ids)} tokens, but {len(opening.logprobs)} log-probabilities"
            )
        return Span(ids, FORCED, opening.logprobs if opening else None)
    if segment.token_ids is None:
        raise ValueError(
            f"model {segment.owner!r} named no token ids; text is never encoded again for training"
        )
    logprobs = segment.logprobs
    return Span(
        segment.token_ids,
        segment.owner,
        None if logprobs is None else tuple(entry.logprob for entry in logprobs),
    )
