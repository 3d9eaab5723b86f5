"""One chat request from its first byte to its record: what was asked, decided, run, spent, and how it ended.

Collects facts as they happen and turns them, at the end, into headers, the answer's own block, the metrics and exactly
one decision record.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from thinkroute.errors import RequestError, ThinkrouteError, http_status
from thinkroute.gateway.routing import Route
from thinkroute.programs.adaptive import DialLog
from thinkroute.programs.cascade import CascadeLog
from thinkroute.programs.driver import Run
from thinkroute.programs.relay import RelayLog
from thinkroute.types import Ledger
from thinkroute.wire.openai_chat.inbound import ChatRequest

Status = Literal["ok", "error", "cancelled", "refused"]


def new_decision_id() -> str:
    """A fresh id; the time in front keeps the log's index local."""
    return f"dec_{int(time.time() * 1000):011x}{secrets.token_hex(8)}"


@dataclass(slots=True)
class Exchange:
    """The facts of one request, filled in as they become known."""

    key_id: str | None
    decision_id: str = field(default_factory=new_decision_id)
    created_at: float = field(default_factory=time.time)
    started: float = field(default_factory=time.perf_counter)
    admitted: bool = False
    """Whether it holds one of the places of `server.max_concurrency`."""
    request: ChatRequest | None = None
    route: Route | None = None
    run: Run | None = None
    relay: RelayLog | None = None
    """What a relay did; None for every other program."""
    cascade: CascadeLog | None = None
    """What a cascade did; None for every other program."""
    dial: DialLog | None = None
    """What an adaptive arm did; None for every other program."""
    ignored_fields: tuple[str, ...] = ()
    """Options the chosen engine does not know and therefore ignores."""
    first_token_at: float | None = None
    status: Status = "error"
    """An error until the end says otherwise."""
    error_code: str | None = ThinkrouteError.code
    http_status: int = 500
    booked_usd: float | None = None
    """Dollars booked against the budgets, set when it ended."""
    latency_s: float = 0.0
    """Seconds from the first byte to the end, set when it ended."""
    answer_text: str = ""
    """The visible answer."""

    @property
    def known_request(self) -> ChatRequest:
        """The request, once it has been read."""
        if self.request is None:
            raise RuntimeError("the request has not been read yet")
        return self.request

    @property
    def known_route(self) -> Route:
        """The route, once it has been decided."""
        if self.route is None:
            raise RuntimeError("the request has not been routed yet")
        return self.route

    @property
    def ledger(self) -> Ledger:
        """What has been used so far."""
        return self.run.ledger if self.run else Ledger()

    @property
    def ttft_s(self) -> float | None:
        """Seconds to the first token, None before it."""
        return None if self.first_token_at is None else self.first_token_at - self.started

    @property
    def arm_id(self) -> str:
        """The chosen arm, or `none`."""
        return self.route.decision.arm.id if self.route else "none"

    def saw_token(self) -> None:
        """Note the first token."""
        if self.first_token_at is None:
            self.first_token_at = time.perf_counter()

    def completed(self) -> None:
        """Note that the whole answer was given."""
        self.status, self.error_code, self.http_status = "ok", None, 200

    def failed(self, error: ThinkrouteError, *, started: bool) -> None:
        """Note how it failed: refused when the request was at fault or no engine was called, otherwise an error.

        `started` says that a 200 had been sent already, so the failure came inside the stream.
        """
        self.http_status = 200 if started else http_status(error)[0]
        self.status = "refused" if self.run is None or isinstance(error, RequestError) else "error"
        self.error_code = error.code

    def cancelled(self) -> None:
        """Note that the caller left."""
        self.http_status = 499
        self.status = "cancelled"
        self.error_code = "caller_left"

    def headers(self) -> dict[str, str]:
        """Our response headers, as far as they are known when the response starts."""
        headers = {"x-thinkroute-decision": self.decision_id}
        if self.route is None:
            return headers
        decision = self.route.decision
        headers["x-thinkroute-arm"] = decision.arm.id
        headers["x-thinkroute-model"] = ",".join(decision.arm.models)
        headers["x-thinkroute-effort"] = str(decision.arm.effort)
        headers["x-thinkroute-reason"] = ",".join(self.reason_codes)
        headers["x-thinkroute-router"] = decision.router
        headers["x-thinkroute-predicted-cost-usd"] = _dollars(self.predicted_cost_usd)
        if self.ignored_fields:
            headers["x-thinkroute-ignored-fields"] = _listed(self.ignored_fields)
        return headers

    def final_headers(self) -> dict[str, str]:
        """`headers`, and what is only known at the end."""
        return {**self.headers(), "x-thinkroute-cost-usd": _dollars(self.ledger.cost_usd)}

    def block(self) -> Mapping[str, Any]:
        """Our own block in the body: what was served, why, and what it cost."""
        if self.route is None:
            return {"decision_id": self.decision_id}
        decision = self.route.decision
        ledger = self.ledger
        return {
            "decision_id": self.decision_id,
            "arm": decision.arm.id,
            "models": list(decision.arm.models),
            "effort": str(decision.arm.effort),
            "reason_codes": list(self.reason_codes),
            **({"teacher_share": self.relay.teacher_share} if self.relay else {}),
            **({"answered_by": self.cascade.accepted} if self.cascade else {}),
            **({"answered_at_once": self.dial.answered_at_once} if self.dial else {}),
            "predicted_cost_usd": self.predicted_cost_usd,
            "cost_usd": ledger.cost_usd,
            "legs": len(ledger.entries),
            "billed_tokens": {
                "prompt": ledger.usage.prompt_tokens,
                "completion": ledger.usage.completion_tokens,
                "reasoning": ledger.usage.reasoning_tokens,
                "provenance": ledger.usage.provenance,
            },
        }

    @property
    def predicted_cost_usd(self) -> float | None:
        """The policy's expectation for the chosen arm."""
        if self.route is None:
            return None
        decision = self.route.decision
        return next(score.cost_usd for score in decision.scores if score.arm_id == decision.arm.id)

    @property
    def reason_codes(self) -> tuple[str, ...]:
        """Why this arm, and what of the request was read or cut in a way worth saying."""
        if self.route is None:
            return ()
        late = [
            note for log in (self.relay, self.cascade, self.dial) if log is not None for note in log.notes
        ]
        return (*self.route.decision.reason_codes, *self.route.notes, *late)


def _listed(names: tuple[str, ...]) -> str:
    """Names for a header: the first few, shortened, and how many more there are."""
    shown = ",".join(name[:_HEADER_NAME_CHARS] for name in names[:_HEADER_NAMES])
    return shown if len(names) <= _HEADER_NAMES else f"{shown},... and {len(names) - _HEADER_NAMES} more"


_HEADER_NAMES = 10
_HEADER_NAME_CHARS = 40


def _dollars(cost_usd: float | None) -> str:
    return "unknown" if cost_usd is None else f"{cost_usd:.8f}"
