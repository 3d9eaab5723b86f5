"""What a finished answer says about itself: log-probability statistics, length, agreement of samples.

Owns the list of features and how they are read off an answer; what they mean for one stage is learned (`verifier`).
They need no knowledge of the task and nothing but what engines report. Unknown is NaN: an engine without
log-probabilities, or a stage that draws no samples.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

from thinkroute.programs.effects import Drafted
from thinkroute.programs.protocol import TokenLogprob
from thinkroute.types import Usage

FEATURES: Final = (
    "answer_mean_logprob",
    "answer_least_logprob",
    "answer_least_probability",
    "thought_mean_logprob",
    "thought_least_logprob",
    "thought_least_probability",
    "unsure_tokens",
    "surprise",
    "answer_log_tokens",
    "thought_log_tokens",
    "cut",
    "agreement",
)
"""Names, in the order of every feature matrix.

`least` is the least likely token; `unsure_tokens` counts (log1p) those below one half; `surprise` is the log1p of the
whole negative log-likelihood; `cut` says that a limit ended the answer; `agreement` is the share of samples that came to
the same conclusion.
"""

CLOSE_TAGS: Final = ("</think>", "</thinking>", "[/THINK]", "</reason>")
"""Tokens or texts after which the answer begins."""
_FLOOR: Final = -20.0
"""Log-probabilities below this are all the same: never."""
_NUMBER: Final = re.compile(r"-?\d+(?:[.,]\d+)*")
_WORD: Final = re.compile(r"\w+", re.UNICODE)


def answer_features(draft: Drafted) -> dict[str, float]:
    """The features of a finished answer, by name; those that nothing is known of are NaN."""
    samples = [other.text for other in draft.others if other.failure is None]
    return features_of(draft.text, draft.logprobs or (), draft.usage, draft.finish, samples)


def features_of(
    text: str, logprobs: Sequence[TokenLogprob], usage: Usage, finish: str | None, samples: Sequence[str] = ()
) -> dict[str, float]:
    """The same of its parts.

    Args:
        text: The answer; what stands before a closing tag is its thought.
        logprobs: Of its tokens, in order.
        usage: Tokens it took, each counted once.
        finish: Why it ended.
        samples: Other answers to the same question by the same arm.
    """
    return {
        **logprob_features(logprobs),
        "answer_log_tokens": math.log1p(max(usage.completion_tokens - usage.reasoning_tokens, 0)),
        "thought_log_tokens": math.log1p(usage.reasoning_tokens),
        "cut": float(finish == "length"),
        "agreement": agreement(text, samples),
    }


def logprob_features(logprobs: Sequence[TokenLogprob]) -> dict[str, float]:
    """Statistics of the chosen tokens, of the thought and of the answer apart."""
    closes = [place for place, token in enumerate(logprobs) if token.token.strip() in CLOSE_TAGS]
    begin = closes[-1] + 1 if closes else 0
    thought = [max(token.logprob, _FLOOR) for token in logprobs[:begin]]
    answer = [max(token.logprob, _FLOOR) for token in logprobs[begin:]]
    every = thought + answer
    return {
        **_statistics("answer", answer, math.nan),
        # No thought has no doubtful step.
        **_statistics("thought", thought, 0.0 if every else math.nan),
        "unsure_tokens": math.log1p(sum(value < -math.log(2) for value in every)) if every else math.nan,
        "surprise": math.log1p(-sum(every)) if every else math.nan,
    }


def _statistics(name: str, values: Sequence[float], empty: float) -> dict[str, float]:
    least = min(values, default=empty)
    return {
        f"{name}_mean_logprob": sum(values) / len(values) if values else empty,
        f"{name}_least_logprob": least,
        f"{name}_least_probability": math.exp(least),
    }


def agreement(text: str, samples: Sequence[str]) -> float:
    """Share of samples whose conclusion is the text's; NaN without samples (self-consistency, arXiv 2203.11171)."""
    if not samples:
        return math.nan
    own = conclusion(text)
    return sum(conclusion(sample) == own for sample in samples) / len(samples)


def conclusion(text: str) -> str:
    """What an answer comes to: its last number, or else its last word, without the thinking before it."""
    for tag in CLOSE_TAGS:
        text = text.rpartition(tag)[2]
    numbers = _NUMBER.findall(text)
    words = numbers or _WORD.findall(text.casefold())
    return str(words[-1]).replace(",", "") if words else ""


def row_of(features: Mapping[str, float]) -> list[float]:
    """Features as a row of a matrix."""
    return [features.get(name, math.nan) for name in FEATURES]
