"""The decision log as rows of an outcome table: graded answers of real traffic, with the propensity of each choice.

Owns: which records count as an outcome and how their fields map. Does not own the table's file format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TypedDict

from thinkroute.store.record import DecisionRecord
from thinkroute.types import Provenance


class OutcomeRow(TypedDict):
    """One measured cell: this arm answered this query like so."""

    query_id: str
    """The question's hash; a repetition of the same question to the same arm gets `.2`, `.3`, … appended."""
    text: str | None
    """None when content logging was off."""
    task: str | None
    arm_id: str
    quality: float | None
    """Mean feedback over sources; None only when ungraded rows are asked for."""
    prompt_tokens: int
    reasoning_tokens: int
    answer_tokens: int
    provenance: Provenance
    """Where the counts come from."""
    cost_usd: float | None
    ttft_s: float | None
    latency_s: float
    finish_reason: str | None
    propensity: float | None
    """Probability with which the logging policy chose the arm."""
    propensities: dict[str, float]
    """That of every arm that was allowed, by id; 0 for one the policy would never have chosen there."""


def outcome_rows(records: Iterable[DecisionRecord], *, graded_only: bool = True) -> Iterator[OutcomeRow]:
    """One row per answered request, in the order of the records. Failed and cancelled requests have no quality."""
    seen: Counter[tuple[str, str]] = Counter()
    for record in records:
        quality = record.quality
        if record.status != "ok" or record.arm_id is None or (graded_only and quality is None):
            continue
        query = record.query_hash or record.decision_id
        seen[query, record.arm_id] += 1
        times = seen[query, record.arm_id]
        usage = record.ledger.usage
        yield OutcomeRow(
            query_id=query if times == 1 else f"{query}.{times}",
            text=record.query_text,
            task=None,
            arm_id=record.arm_id,
            quality=quality,
            prompt_tokens=usage.prompt_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            answer_tokens=usage.completion_tokens - usage.reasoning_tokens,
            provenance=usage.provenance,
            cost_usd=record.cost_usd,
            ttft_s=record.ttft_s,
            latency_s=record.latency_s,
            finish_reason=record.finish_reason,
            propensity=record.propensity,
            propensities={score.arm_id: score.propensity for score in record.scores if score.allowed},
        )
