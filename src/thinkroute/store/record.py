"""The decision record: exactly one per request, the explain card and our training data at once, so it is versioned.

Times are seconds, money dollars, None unknown. Adding an optional field keeps the version; anything else raises it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

SCHEMA_VERSION = 1

Status = Literal["ok", "error", "cancelled", "refused"]


class ScoreRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One candidate arm as the policy saw it; see `thinkroute.types.ArmScore`."""

    arm_id: str
    allowed: bool
    propensity: float
    reasons: tuple[str, ...] = ()
    utility_usd: float | None = None
    quality: float | None = None
    quality_std: float | None = None
    cost_usd: float | None = None
    latency_s: float | None = None
    reasoning_tokens: float | None = None
    answer_tokens: float | None = None


class LegRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One engine call; see `thinkroute.types.LedgerEntry`."""

    owner: str
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0
    cached_tokens: int = 0
    provenance: str = "unknown"
    cost_usd: float | None = None
    latency_s: float = 0.0
    ttft_s: float | None = None
    finish_reason: str | None = None
    error: str | None = None


class FeedbackRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a caller said of an answer."""

    score: float
    """Quality in [0, 1]."""
    source: str = "user"
    """Who judged; one feedback is kept per decision and source."""
    comment: str | None = None
    created_at: float = 0.0


class DecisionRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What was asked, decided, run and spent for one request."""

    schema_version: int = SCHEMA_VERSION
    decision_id: str
    created_at: float
    """Seconds since the epoch, UTC."""
    status: Status
    http_status: int
    error_code: str | None = None
    key_id: str | None = None
    """First digits of the hash of the caller's key; None when no keys are configured."""
    streamed: bool = False
    asked_model: str | None = None
    """None when the request could not be read."""
    asked_effort: str | None = None
    max_tokens: int | None = None
    """The caller's own cap."""
    enforced_max_tokens: int | None = None
    """The cap after budgets."""
    arm_id: str | None = None
    """None when no arm was chosen."""
    program: str | None = None
    models: tuple[str, ...] = ()
    effort: str | None = None
    propensity: float | None = None
    reason_codes: tuple[str, ...] = ()
    router: str | None = None
    policy_version: str | None = None
    value_usd: float | None = None
    mu_spend: float | None = None
    mu_latency_usd_per_s: float | None = None
    scores: tuple[ScoreRecord, ...] = ()
    query_hash: str | None = None
    """Hash of the last user message: tells repeated questions without keeping them."""
    query_text: str | None = None
    """The last user message, only while contents are logged."""
    answer_text: str | None = None
    """The visible answer, only while contents are logged."""
    prompt_tokens_estimate: int = 0
    needs: tuple[str, ...] = ()
    ignored_fields: tuple[str, ...] = ()
    legs: tuple[LegRecord, ...] = ()
    cost_usd: float | None = None
    """Sum over the legs; None when any is unknown, 0.0 when no engine was called."""
    ttft_s: float | None = None
    latency_s: float = 0.0
    finish_reason: str | None = None
    feedback: tuple[FeedbackRecord, ...] = ()
    """Filled in on reading; never written with the record."""
