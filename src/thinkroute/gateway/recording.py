"""An exchange as a decision record, and a record as the explain card callers read."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from thinkroute.gateway.exchange import Exchange
from thinkroute.gateway.relaying import relay_record
from thinkroute.programs.cascade import StageReport
from thinkroute.store.record import AdaptiveRecord, DecisionRecord, LegRecord, ScoreRecord, StageRecord
from thinkroute.types import ArmScore, LedgerEntry

_MOST_NAMES = 50
_NAME_CHARS = 100


def to_record(exchange: Exchange, *, log_content: bool) -> DecisionRecord:
    """The one record of an exchange. Texts are in it only when `log_content`."""
    request, route = exchange.request, exchange.route
    known: dict[str, Any] = {}
    if request is not None:
        known |= {
            "asked_model": request.model,
            "asked_effort": str(request.effort) if request.effort else None,
            "streamed": request.stream,
            "max_tokens": request.max_tokens,
            "query_hash": hashlib.sha256(request.query.text.encode("utf-8", "replace")).hexdigest()[:16],
            "query_text": request.query.text if log_content else None,
            "answer_text": exchange.answer_text if log_content else None,
            "prompt_tokens_estimate": request.query.prompt_tokens,
            "needs": tuple(sorted(request.query.needs)),
        }
    if route is not None:
        decision = route.decision
        known |= {
            "arm_id": decision.arm.id,
            "program": route.runs_as.program,
            "models": decision.arm.models,
            "effort": str(decision.arm.effort),
            "propensity": decision.propensity,
            "reason_codes": exchange.reason_codes,
            "router": decision.router,
            "policy_version": decision.policy_version,
            "value_usd": decision.prices.value_usd,
            "mu_spend": decision.prices.mu_spend,
            "mu_latency_usd_per_s": decision.prices.mu_latency_usd_per_s,
            "scores": tuple(_score(score) for score in decision.scores),
            "enforced_max_tokens": route.max_tokens,
        }
    if exchange.cascade is not None:
        known |= {
            "stages": tuple(_stage(stage) for stage in exchange.cascade.stages),
            "first_stage_usd": dict(exchange.cascade.before),
        }
    return DecisionRecord(
        decision_id=exchange.decision_id,
        created_at=exchange.created_at,
        status=exchange.status,
        http_status=exchange.http_status,
        error_code=exchange.error_code,
        key_id=exchange.key_id,
        ignored_fields=tuple(name[:_NAME_CHARS] for name in exchange.ignored_fields[:_MOST_NAMES]),
        legs=tuple(_leg(entry) for entry in exchange.ledger.entries),
        cost_usd=exchange.ledger.cost_usd,
        booked_usd=exchange.booked_usd,
        ttft_s=exchange.ttft_s,
        latency_s=exchange.latency_s,
        finish_reason=exchange.run.finish if exchange.run else None,
        relay=relay_record(exchange),
        adaptive=_adaptive(exchange),
        **known,
    )


def card(record: DecisionRecord) -> dict[str, Any]:
    """The explain card: the record as JSON, with the predicted gain and cost of each alternative made explicit."""
    shown: dict[str, Any] = msgspec.to_builtins(record)
    chosen = next((score for score in record.scores if score.arm_id == record.arm_id), None)
    shown["alternatives"] = [_alternative(score, chosen) for score in record.scores]
    shown.pop("scores", None)
    shown["cost_usd"] = record.cost_usd
    return shown


def _alternative(score: ScoreRecord, chosen: ScoreRecord | None) -> dict[str, Any]:
    """One arm of the card; `gain` and `extra_cost` are against the chosen arm, None where unknown."""

    def against(name: str) -> float | None:
        mine, theirs = getattr(score, name), getattr(chosen, name, None)
        return None if mine is None or theirs is None else mine - theirs

    return {
        "arm": score.arm_id,
        "chosen": chosen is not None and score.arm_id == chosen.arm_id,
        "allowed": score.allowed,
        "reasons": list(score.reasons),
        "predicted_quality": score.quality,
        "predicted_quality_std": score.quality_std,
        "predicted_cost_usd": score.cost_usd,
        "predicted_latency_s": score.latency_s,
        "predicted_reasoning_tokens": score.reasoning_tokens,
        "predicted_answer_tokens": score.answer_tokens,
        "utility_usd": score.utility_usd,
        "quality_gain": against("quality"),
        "extra_cost_usd": against("cost_usd"),
        "propensity": score.propensity,
    }


def _score(score: ArmScore) -> ScoreRecord:
    return ScoreRecord(
        arm_id=score.arm_id,
        allowed=score.allowed,
        propensity=score.propensity,
        reasons=score.reasons,
        utility_usd=score.utility_usd,
        quality=score.quality.mean if score.quality else None,
        quality_std=score.quality.std if score.quality else None,
        cost_usd=score.cost_usd,
        latency_s=score.latency_s,
        reasoning_tokens=score.reasoning_tokens,
        answer_tokens=score.answer_tokens,
    )


def _adaptive(exchange: Exchange) -> AdaptiveRecord | None:
    dial = exchange.dial
    if dial is None:
        return None
    return AdaptiveRecord(
        threshold=dial.threshold, p_direct=dial.p_direct, answered_at_once=dial.answered_at_once
    )


def _stage(stage: StageReport) -> StageRecord:
    return StageRecord(
        arm_id=stage.stage,
        outcome=stage.outcome,
        quality=stage.quality,
        features=dict(stage.features),
        stop_usd=stage.stop_usd,
        ways_usd=dict(stage.ways_usd),
        generated_tokens=stage.generated_tokens,
        cost_usd=stage.cost_usd,
        error=stage.error,
    )


def _leg(entry: LedgerEntry) -> LegRecord:
    return LegRecord(
        owner=entry.owner,
        prompt_tokens=entry.usage.prompt_tokens,
        completion_tokens=entry.usage.completion_tokens,
        reasoning_tokens=entry.usage.reasoning_tokens,
        cached_tokens=entry.usage.cached_tokens,
        provenance=entry.usage.provenance,
        cost_usd=entry.cost_usd,
        latency_s=entry.latency_s,
        ttft_s=entry.ttft_s,
        finish_reason=entry.finish_reason,
        error=entry.error,
    )
