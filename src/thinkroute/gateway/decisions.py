"""`GET /v1/decisions/{id}` and `POST /v1/decisions/{id}/feedback`: why this arm, and how well it did."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

from thinkroute.errors import InvalidRequest, UnknownDecision
from thinkroute.gateway.asgi import Request
from thinkroute.gateway.recording import card
from thinkroute.gateway.runtime import Runtime
from thinkroute.store import DecisionRecord, FeedbackRecord
from thinkroute.wire.json_body import check_depth, parse_object

_PREFIX = "/v1/decisions/"
_MAX_COMMENT_CHARS = 4000
_MAX_SOURCE_CHARS = 64
_FIELDS = frozenset({"score", "correct", "comment", "source"})


async def explain(runtime: Runtime, http: Request) -> None:
    """The explain card of one decision."""
    record = await _visible(runtime, http, http.path.removeprefix(_PREFIX))
    await http.reply_json(200, card(record))


async def feedback(runtime: Runtime, http: Request) -> None:
    """Join a grade to a decision. It is durable when the answer is sent."""
    decision_id = http.path.removeprefix(_PREFIX).removesuffix("/feedback")
    server = runtime.resolved.config.server
    body = await http.body(server.max_body_bytes)
    check_depth(body, server.max_json_depth)
    given = parse_feedback(body)
    await _visible(runtime, http, decision_id)
    await asyncio.to_thread(runtime.store.add_feedback, decision_id, given)
    runtime.metrics.feedback()
    await http.reply_json(200, {"decision_id": decision_id, "score": given.score, "source": given.source})


async def _visible(runtime: Runtime, http: Request, decision_id: str) -> DecisionRecord:
    """The record, if this key may see it. Another key's decision looks like none at all.

    Raises:
        UnknownDecision: no such decision for this key.
    """
    record = await asyncio.to_thread(runtime.store.get, decision_id)
    if record is None or record.key_id != http.key_id:
        raise UnknownDecision(
            f"no decision {decision_id!r:.100}; the id is in the response header x-thinkroute-decision",
            param="decision_id",
        )
    return record


def parse_feedback(body: bytes) -> FeedbackRecord:
    """Read `{"score": 0..1}` or `{"correct": true}`, with an optional `comment` and `source`.

    Raises:
        InvalidRequest: anything else.
    """
    fields = parse_object(body)
    if unknown := sorted(set(fields) - _FIELDS):
        raise InvalidRequest(
            f"unknown field {unknown[0]!r:.50}; use score or correct, comment, source", param=unknown[0]
        )
    return FeedbackRecord(
        score=_score(fields),
        source=_text(fields, "source", _MAX_SOURCE_CHARS) or "user",
        comment=_text(fields, "comment", _MAX_COMMENT_CHARS),
        created_at=time.time(),
    )


def _score(fields: dict[str, Any]) -> float:
    if ("score" in fields) == ("correct" in fields):
        raise InvalidRequest(
            "send exactly one of `score` (0 to 1) and `correct` (true or false)", param="score"
        )
    if "correct" in fields:
        if not isinstance(fields["correct"], bool):
            raise InvalidRequest("`correct` must be true or false", param="correct")
        return float(fields["correct"])
    score = fields["score"]
    number = isinstance(score, int | float) and not isinstance(score, bool)
    if not number or not math.isfinite(score) or not 0 <= score <= 1:
        raise InvalidRequest(f"`score` must be a number from 0 to 1, not {score!r:.50}", param="score")
    return float(score)


def _text(fields: dict[str, Any], name: str, max_chars: int) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > max_chars:
        raise InvalidRequest(f"`{name}` must be a string of at most {max_chars} characters", param=name)
    return value
