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


@dataclass(frozen=True, slots=True)
class _Leg:
    """One call of a run, of its drafts too: what it continued and what came."""

    given_ids: list[int]
    segment: Segment


class _Recorder:
    """Remembers every call of every run."""

    def __init__(self, sampler: Sampler, prompts: Sequence[Prompt]) -> None:
        self._sampler = sampler
        # A call carries its run's messages: that is what tells a run's own calls from what its program asks others.
        self._runs = {id(prompt.messages): index for index, prompt in enumerate(prompts)}
        self.legs: list[list[_Leg]] = [[] for _ in prompts]

    def generate(self, calls: Sequence[Call]) -> Sequence[Segment]:
        # Commands that this model must not see are in the trajectory all the same.
        given = [
            self._sampler.prompt_ids(replace(call, without=None)) if id(call.messages) in self._runs else []
            for call in calls
        ]
        segments = self._sampler.generate(calls)
        for call, given_ids, segment in zip(calls, given, segments, strict=True):
            if (index := self._runs.get(id(call.messages))) is not None:
                self.legs[index].append(_Leg(given_ids, segment))
        return segments


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
        _trajectory(attempt, segments, finish, legs, sampler)
        for attempt, (segments, finish), legs in zip(attempts, runs, recorder.legs, strict=True)
    ]


def _trajectory(
    attempt: Attempt,
    segments: Sequence[Segment],
    finish: SegmentFinish,
    legs: Sequence[_Leg],
    sampler: Sampler,
) -> Trajectory:
    spans = [
        _span(segment, sampler, attempt.opening if place == 0 else None)
        for place, segment in enumerate(segments)
    ]
    generated = [place for place, segment in enumerate(segments) if segment.owner != FORCED]
    # Drafts that were not adopted are paid for, but nothing of them is in the response.
    kept = [leg for leg in legs if any(leg.segment is segment for segment in segments)]
    first = kept[0].given_ids
    before = sum(len(span.ids) for span in spans[: generated[0]])
    prompt_ids = tuple(first[: len(first) - before])
    for place, leg in zip(generated, kept, strict=True):
        held = [*prompt_ids, *(token_id for span in spans[:place] for token_id in span.ids)]
        if held != leg.given_ids:
            raise ValueError(
                f"the engine continued other ids than the trajectory holds, at segment {place} of "
                f"{attempt.messages[-1].get('content')!r}"
            )
    text = "".join(segment.text for segment in segments)
    return Trajectory(prompt_ids, tuple(spans), text, finish, Ledger(tuple(map(_entry, legs))))


def _entry(leg: _Leg) -> LedgerEntry:
    made = leg.segment
    return LedgerEntry(made.owner, made.usage, None, made.latency_s, made.ttft_s, made.finish)


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
