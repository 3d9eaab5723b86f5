"""`adaptive`: ask the model how likely it is to answer at once, and let a threshold on that decide.

A model trained to choose for itself when to think (AdaptThink, arXiv 2505.13417; AdaCoT, arXiv 2505.11896) puts the
whole choice into one token. Its probability p is read by one call of one token that nobody sees; then the answer
comes at once where p >= threshold, and after thinking elsewhere. One trained model thus offers a front of arms, and no
weights change along it.

Contract: the mode is forced either way, so the answer is the one that the model gives behind that opening. Threshold 0
always answers at once and 1 always thinks; neither asks. The share of questions answered at once never grows with the
threshold. Under a cap thinking is cut as in `budgeted`; a cap without room for thinking answers at once.

Degenerate case: an engine that reports no log-probabilities leaves p unknown; then it thinks, and the log says why.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from math import exp

from thinkroute.programs.budgeted import go_on_thinking, thinking_allowance
from thinkroute.programs.effects import Append, Draft, Drafted, Effect, Generate, Program, Return
from thinkroute.programs.protocol import Segment, ThinkingFormat
from thinkroute.types import Effort

DECISION_UNKNOWN = "decision_unknown"
"""Reason code: the engine did not say how likely the deciding token was."""
_TOP = 5
"""Alternatives asked for: every server allows so many, and the deciding token has two in practice."""


@dataclass(frozen=True, slots=True)
class DecisionPoint:
    """Where the messages of a model family turn out to be with or without thinking. Data from the catalog."""

    direct_text: str
    """How a message begins that answers at once."""
    direct_token: str
    """The token of it that decides: a message that thinks has another in its place."""

    @property
    def before(self) -> str:
        """What stands before the deciding token, in either mode."""
        return self.direct_text[: self.direct_text.index(self.direct_token)]


@dataclass(slots=True)
class DialLog:
    """What an adaptive arm did, filled in while it runs."""

    threshold: float
    p_direct: float | None = None
    """Probability of answering at once; None when it was not asked for, or not reported."""
    answered_at_once: bool | None = None
    """None until it is decided."""
    notes: list[str] = field(default_factory=list[str])
    """Reason codes known only then."""


def adaptive(
    model: str,
    max_tokens: int | None,
    thinking: ThinkingFormat,
    point: DecisionPoint,
    answer_floor_tokens: int,
    log: DialLog,
) -> Program:
    """Answer at once where the model is likely enough to do so by itself, otherwise think.

    Args:
        model: A model that decides.
        max_tokens: Cap on thinking and answer together; the one token of the question is not counted.
        thinking: The model's thinking format.
        point: Where the model decides.
        answer_floor_tokens: See `budgeted`.
        log: Holds the threshold; filled in.
    """
    allowance = thinking_allowance(None, max_tokens, answer_floor_tokens)
    log.answered_at_once = log.threshold <= 0 or allowance == 0
    if not log.answered_at_once and log.threshold < 1:
        log.p_direct = yield from _probability(model, point)
        if log.p_direct is None:
            log.notes.append(DECISION_UNKNOWN)
        log.answered_at_once = log.p_direct is not None and log.p_direct >= log.threshold
    if log.answered_at_once:
        yield Append(point.direct_text, closes_thinking=True, hidden=True)
        answer = yield Generate(model, Effort("default"), max_tokens)
        return Return(answer.finish)
    yield Append(thinking.open_text, opens_thinking=True, hidden=True)
    if allowance is None:
        answer = yield Generate(model, Effort("on"), None)
        return Return(answer.finish)
    return (yield from go_on_thinking(model, allowance, max_tokens, thinking))


def _probability(model: str, point: DecisionPoint) -> Generator[Effect, Segment, float | None]:
    # At temperature 0 every engine reports the model's own probabilities.
    options = {"logprobs": True, "top_logprobs": _TOP, "temperature": 0}
    peek = yield Draft(_first_token(model, point), options)
    if isinstance(peek, Drafted) and peek.failure is not None:
        raise peek.failure
    if not peek.logprobs:
        return None
    decided = peek.logprobs[0]
    likely = {decided.token: decided.logprob, **dict(decided.top)}
    return min(1.0, exp(likely[point.direct_token])) if point.direct_token in likely else 0.0


def _first_token(model: str, point: DecisionPoint) -> Program:
    yield Append(point.before, opens_thinking=True, hidden=True)
    token = yield Generate(model, Effort("default"), 1)
    return Return(token.finish)
