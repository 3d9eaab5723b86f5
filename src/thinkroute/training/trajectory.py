"""Trajectories: exact token ids with an owner each. Never imports torch.

Invariant: the prompt and the spans, concatenated, are the ids the engine worked on; nothing here is ever encoded again.
Which tokens are trained, which count as external and what was paid for are views of the owners, never stored twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from thinkroute.programs.protocol import SegmentFinish
from thinkroute.types import FORCED, Ledger

ENVIRONMENT = "<environment>"
"""Owner of text that came from outside: a tool's result, another model's answer."""

RewardTerms = Mapping[str, float]
"""Named parts of one reward, weights already applied; their sum is the reward."""


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of one owner."""

    ids: tuple[int, ...]
    owner: str
    """Model name, `FORCED`, or `ENVIRONMENT`."""
    logprobs: tuple[float | None, ...] | None = None
    """Log-probability of each token under whatever chose it. A `FORCED` token that has one was drawn by the sampler in
    the learner's place, and is an action; one that has none is plain text."""
    train: bool = True


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One response to one prompt."""

    prompt_ids: tuple[int, ...]
    spans: tuple[Span, ...]
    text: str
    """The raw response, tags included."""
    finish: SegmentFinish = "stop"
    ledger: Ledger = Ledger()
    excluded: frozenset[int] = field(default_factory=frozenset[int])
    """Positions in the response that give no policy gradient although the learner chose them."""

    @property
    def response_ids(self) -> tuple[int, ...]:
        """All spans in a row."""
        return tuple(chain.from_iterable(span.ids for span in self.spans))

    def actions(self, learner: str) -> list[bool]:
        """Per response token: whether the learner, or the sampler in its place, chose it."""
        return [
            span.owner == learner or (span.owner == FORCED and _logprob(span, place) is not None)
            for span in self.spans
            for place in range(len(span.ids))
        ]

    @property
    def forced_action(self) -> int | None:
        """Response position of the first token that was drawn in the learner's place; None without one."""
        places = (
            span.owner == FORCED and _logprob(span, place) is not None
            for span in self.spans
            for place in range(len(span.ids))
        )
        return next((place for place, forced in enumerate(places) if forced), None)

    def trained(self, learner: str) -> list[bool]:
        """Per response token: whether it gets a policy gradient."""
        allowed = [span.train for span in self.spans for _ in span.ids]
        return [
            action and train and place not in self.excluded
            for place, (action, train) in enumerate(zip(self.actions(learner), allowed, strict=True))
        ]

    def behaviour_logprobs(self) -> list[float | None]:
        """Per response token: under whatever chose it; None where nobody recorded it."""
        return [_logprob(span, place) for span in self.spans for place in range(len(span.ids))]

    def tokens_of(self, owner: str) -> int:
        """How many response tokens an owner wrote."""
        return sum(len(span.ids) for span in self.spans if span.owner == owner)

    @property
    def tokens(self) -> int:
        """Response tokens of all owners."""
        return sum(len(span.ids) for span in self.spans)


Group = Sequence[Trajectory]
"""The trajectories of one prompt."""


def _logprob(span: Span, place: int) -> float | None:
    return None if span.logprobs is None else span.logprobs[place]
