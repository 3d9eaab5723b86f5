"""The decision record: the one thing kept of every request, and our training data. Described in docs/decision-record.md.

Owns: the stored shape, its version, and turning it back into the nouns. Does not own where it is kept, nor what to put
in it. Fields are only ever added with a default; any other change raises `SCHEMA_VERSION` and adds an upgrade.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from thinkroute.errors import DataError
from thinkroute.types import (
    Arm,
    ArmScore,
    ComputePrices,
    Decision,
    Effort,
    Estimate,
    Ledger,
    LedgerEntry,
    Provenance,
    Usage,
    stage_names,
)

SCHEMA_VERSION = 1
"""Version of the record that this code writes."""

Status = Literal["ok", "error", "cancelled", "refused"]


class ScoreRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the policy believed of one arm: one line of the explain card."""

    arm_id: str
    allowed: bool
    propensity: float
    reasons: tuple[str, ...] = ()
    utility_usd: float | None = None
    quality: float | None = None
    """Predicted probability of a good answer; None when the router made no prediction."""
    quality_std: float | None = None
    cost_usd: float | None = None
    latency_s: float | None = None
    reasoning_tokens: float | None = None
    answer_tokens: float | None = None


class LegRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One call to one owner: a line of the ledger."""

    owner: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int = 0
    provenance: Provenance = "unknown"
    cost_usd: float | None = None
    latency_s: float = 0.0
    ttft_s: float | None = None
    finish_reason: str | None = None
    error: str | None = None


class HandOverRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One command of a relay's student, and what became of it."""

    outcome: Literal["served", "ended", "failed", "malformed", "empty"]
    after_tokens: int = 0
    """Tokens of the message before it."""
    asked_tokens: int = 0
    granted_tokens: int = 0
    tokens: int = 0
    """What the teacher wrote; estimated after a failure."""
    cost_usd: float | None = None
    """Of the teacher's call; 0 where it was not called, None where unknown."""
    latency_s: float = 0.0
    error: str | None = None


class RelayRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a relay did."""

    student: str
    teacher: str
    teacher_share: float
    """The teacher's part of all generated tokens."""
    teacher_share_asked: float
    """The part it would have had, had it written every token it was asked for."""
    hand_overs: tuple[HandOverRecord, ...] = ()


class AdaptiveRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a model that decides for itself was asked, and what was made of it."""

    threshold: float
    p_direct: float | None = None
    """The model's probability of answering at once; None when it was not asked, or did not say."""
    answered_at_once: bool | None = None
    """None when the request ended before it was decided."""


class StageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One stage of a cascade that ran: a line of its card."""

    arm_id: str
    outcome: Literal["accepted", "rejected", "failed"]
    quality: float | None = None
    """Believed probability that its answer is right; None where it was not looked at."""
    features: dict[str, float] = {}
    """What the answer said of itself."""
    stop_usd: float | None = None
    """Utility of stopping with it."""
    ways_usd: dict[str, float] = {}
    """Utility of going on, by arm id."""
    generated_tokens: int | None = None
    """Samples included; None for a stage that was streamed as it came."""
    cost_usd: float | None = None
    error: str | None = None


class FeedbackRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A grade that came later. There is one a decision and source; a newer one replaces it."""

    score: float
    """Quality in [0, 1]."""
    source: str = "user"
    """Who graded."""
    comment: str | None = None
    created_at: float = 0.0
    """Seconds since the epoch, UTC."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.score <= 1.0:
            raise ValueError(f"feedback score {self.score!r} is outside [0, 1]")


class DecisionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Everything kept of one request."""

    decision_id: str
    created_at: float
    """Seconds since the epoch, UTC."""
    status: Status
    """`refused` never reached an engine; `cancelled` means that the caller left."""
    schema_version: int = SCHEMA_VERSION
    key_id: str | None = None
    """Name of the key that asked, never the key."""

    asked_model: str | None = None
    asked_effort: str | None = None
    max_tokens: int | None = None
    streamed: bool = False

    query_hash: str | None = None
    """Identifies the question without its text. A short or guessable question can be recovered from it."""
    query_text: str | None = None
    """Only when content logging is on."""
    answer_text: str | None = None
    """Only when content logging is on."""
    prompt_tokens_estimate: int = 0
    needs: tuple[str, ...] = ()

    arm_id: str | None = None
    """The chosen arm; None when the request failed before the choice, and then so are the fields below."""
    program: str | None = None
    models: tuple[str, ...] = ()
    effort: str | None = None
    propensity: float | None = None
    """Probability with which the logged policy chose the arm."""
    reason_codes: tuple[str, ...] = ()
    router: str | None = None
    policy_version: str | None = None
    value_usd: float | None = None
    mu_spend: float | None = None
    mu_latency_usd_per_s: float | None = None
    scores: tuple[ScoreRecord, ...] = ()
    enforced_max_tokens: int | None = None

    relay: RelayRecord | None = None
    """None for every other program."""
    adaptive: AdaptiveRecord | None = None
    """None for every other program."""
    stages: tuple[StageRecord, ...] = ()
    """Of a cascade: what ran, in order."""
    first_stage_usd: dict[str, float] = {}
    """Of a cascade: utility of beginning with each stage, by arm id."""
    legs: tuple[LegRecord, ...] = ()
    cost_usd: float | None = None
    """Dollars over all legs; None when any is unknown."""
    booked_usd: float | None = None
    """Dollars booked against the budgets: the cost, or what was reserved where the cost is unknown."""
    ttft_s: float | None = None
    latency_s: float = 0.0
    finish_reason: str | None = None
    error_code: str | None = None
    http_status: int = 200
    ignored_fields: tuple[str, ...] = ()
    """Fields of the request that the engine was known to ignore."""
    feedback: tuple[FeedbackRecord, ...] = ()
    """Joined when the record is read; empty in what is written."""

    @property
    def ledger(self) -> Ledger:
        """The legs as the ledger they came from."""
        return Ledger(tuple(_entry(leg) for leg in self.legs))

    @property
    def decision(self) -> Decision | None:
        """The decision as it was made; None when there was none."""
        if self.arm_id is None or self.program is None:
            return None
        return Decision(
            arm=self._arm(self.program),
            scores=tuple(_score(score) for score in self.scores),
            propensity=1.0 if self.propensity is None else self.propensity,
            reason_codes=self.reason_codes,
            prices=ComputePrices(
                self.value_usd or 0.0, self.mu_spend or 0.0, self.mu_latency_usd_per_s or 0.0
            ),
            policy_version=self.policy_version or "",
            router=self.router or "",
        )

    def _arm(self, program: str) -> Arm:
        """The arm of the decision; the stages of a cascade are read from its name."""
        stages = [_stage_arm(name) for name in stage_names(self.arm_id or "")]
        return (
            Arm.cascade(stages)
            if stages
            else Arm(program, self.models, Effort.parse(self.effort or "default"))
        )

    @property
    def spent_usd(self) -> float:
        """What counts against budgets: booked dollars, else the cost, else nothing."""
        return self.booked_usd if self.booked_usd is not None else self.cost_usd or 0.0

    @property
    def quality(self) -> float | None:
        """Mean feedback over sources; None without any."""
        if not self.feedback:
            return None
        return sum(feedback.score for feedback in self.feedback) / len(self.feedback)


def _stage_arm(name: str) -> Arm:
    model, _, effort = name.rpartition("@")
    parsed = Effort.parse(effort)
    program = "direct" if parsed.budget_tokens is None else "budgeted"
    return Arm("adaptive" if parsed.threshold is not None else program, (model,), parsed)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(DecisionRecord)


def encode(record: DecisionRecord) -> bytes:
    """The record as JSON, without its feedback."""
    return _encoder.encode(msgspec.structs.replace(record, feedback=()) if record.feedback else record)


def decode(data: bytes | str, feedback: tuple[FeedbackRecord, ...] = ()) -> DecisionRecord:
    """Read a record of this or an earlier version, joined with its feedback.

    Raises:
        DataError: it is not a record, or one of a newer version.
    """
    try:
        record = _decoder.decode(data)
    except (msgspec.DecodeError, ValueError) as error:
        raise DataError(f"not a decision record: {error}") from None
    if record.schema_version > SCHEMA_VERSION:
        raise DataError(
            f"decision {record.decision_id!r} has record version {record.schema_version}, this thinkroute reads up"
            f" to {SCHEMA_VERSION}; upgrade thinkroute"
        )
    return msgspec.structs.replace(record, feedback=feedback) if feedback else record


def _entry(leg: LegRecord) -> LedgerEntry:
    return LedgerEntry(
        owner=leg.owner,
        usage=Usage(
            leg.prompt_tokens, leg.completion_tokens, leg.reasoning_tokens, leg.cached_tokens, leg.provenance
        ),
        cost_usd=leg.cost_usd,
        latency_s=leg.latency_s,
        ttft_s=leg.ttft_s,
        finish_reason=leg.finish_reason,
        error=leg.error,
    )


def _score(score: ScoreRecord) -> ArmScore:
    return ArmScore(
        arm_id=score.arm_id,
        allowed=score.allowed,
        reasons=score.reasons,
        utility_usd=score.utility_usd,
        quality=None if score.quality is None else Estimate(score.quality, score.quality_std or 0.0),
        cost_usd=score.cost_usd,
        latency_s=score.latency_s,
        reasoning_tokens=score.reasoning_tokens,
        answer_tokens=score.answer_tokens,
        propensity=score.propensity,
    )
