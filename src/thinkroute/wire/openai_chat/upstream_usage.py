"""An upstream's `usage` object as counts with a provenance.

Owns: the places servers put the counts of thinking and of cached tokens, and what to make of missing or odd ones. Does
not own estimating a reply that carries no usage at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from thinkroute.types import Usage

_MAX_COUNT = 2**40


def reported_usage(usage: Mapping[str, Any], reasoning: int, generated: int) -> Usage | None:
    """The upstream's counts; None when it sent none that can be used.

    A reasoning count that is missing, or 0 beside visible reasoning (several servers), is split off the reported
    completion by length, and then the counts are only estimated. A completion count that leaves the reasoning out
    shows by the total, and is completed.
    """
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    if prompt is None or completion is None:
        return None
    cached = _count(_field(usage, "prompt_tokens_details", "cached_tokens"))
    thought = _count(_field(usage, "completion_tokens_details", "reasoning_tokens"))
    thought = _count(usage.get("reasoning_tokens")) if thought is None else thought
    if thought and _count(usage.get("total_tokens")) == prompt + completion + thought:
        completion += thought
    told = thought is not None and (thought > 0 or not reasoning)
    if not told:
        thought = round(completion * reasoning / generated) if reasoning else 0
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        reasoning_tokens=min(thought or 0, completion),
        cached_tokens=min(cached or 0, prompt),
        provenance="reported" if told or not reasoning else "estimated",
    )


def _field(usage: Mapping[str, Any], group: str, name: str) -> object:
    details = usage.get(group)
    return cast("dict[str, object]", details).get(name) if isinstance(details, dict) else None


def _count(value: object) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_COUNT
    return cast("int", value) if is_count else None
