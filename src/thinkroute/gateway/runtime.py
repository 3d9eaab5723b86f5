"""Everything a gateway holds while it runs, put together once from a resolved configuration.

Owns the lifetimes of engines and store and the little state shared by requests (spend budget, counts). Used by the HTTP
app, and directly by `thinkroute ask` and `collect`, which need the same arms without a socket.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from thinkroute import __version__
from thinkroute.catalog import Model
from thinkroute.config import Resolved
from thinkroute.errors import Overloaded
from thinkroute.gateway.exchange import Exchange
from thinkroute.gateway.metrics import Metrics
from thinkroute.gateway.recording import to_record
from thinkroute.gateway.routing import Dispatcher
from thinkroute.policy import POLICY_VERSION, SpendBudget
from thinkroute.policy.budget import DAY_S
from thinkroute.programs.adaptive import DecisionPoint
from thinkroute.programs.protocol import Engine, ThinkingFormat
from thinkroute.routers.base import Router
from thinkroute.routers.cascade import CascadeRules
from thinkroute.store import Store
from thinkroute.types import Arm

logger = logging.getLogger(__name__)

ScopeCheck = Callable[[Sequence[Mapping[str, Any]]], None]


def _certain_usd(exchange: Exchange) -> float | None:
    """What an exchange surely cost; None where any leg's tokens are only estimated, for an estimate can be fooled."""
    entries = exchange.ledger.entries
    if any(entry.usage.provenance not in ("reported", "counted") for entry in entries):
        return None
    return exchange.ledger.cost_usd if entries else 0.0


class Runtime:
    """A gateway without its socket."""

    def __init__(
        self,
        resolved: Resolved,
        engines: Mapping[str, Engine],
        router: Router,
        store: Store,
        check_scope: ScopeCheck | None = None,
        clock: Callable[[], float] = time.time,
        cascades: CascadeRules | None = None,
    ) -> None:
        self.resolved = resolved
        self.engines = engines
        """Engine by model name; several models may share one."""
        self.router = router
        self.store = store
        self.check_scope = check_scope
        self.cascades = cascades
        """What cascade arms decide by; None when there are none."""
        self.in_flight = 0
        budgets = resolved.config.policy.budgets
        midnight = clock() // DAY_S * DAY_S
        spent = store.spend_usd(midnight) if budgets.usd_per_day is not None else 0.0
        self.budget = SpendBudget(budgets.usd_per_day, clock, spent)
        self.dispatcher = Dispatcher(resolved, router, self.budget, cascades)
        self._listed_arms = {arm.id for name in resolved.virtual_models.values() for arm in name.arms}
        self.metrics = Metrics(__version__, POLICY_VERSION, router.version)

    async def start(self) -> None:
        """Start every engine."""
        for engine in dict.fromkeys(self.engines.values()):
            await engine.start()

    async def aclose(self) -> None:
        """Stop every engine, then flush and close the store, whatever the engines do."""
        try:
            for engine in dict.fromkeys(self.engines.values()):
                await engine.aclose()
        finally:
            await asyncio.to_thread(self.store.close)

    def begin(self) -> None:
        """A chat request arrived."""
        self.metrics.begin()

    def admit(self, exchange: Exchange) -> None:
        """Take a place among the requests being answered; callers still sending their body hold none.

        Raises:
            Overloaded: all places are taken.
        """
        most = self.resolved.config.server.max_concurrency
        if self.in_flight >= most:
            raise Overloaded(f"{most} requests are being answered already; try again")
        self.in_flight += 1
        exchange.admitted = True

    def conclude(self, exchange: Exchange) -> None:
        """A chat request ended, however it did: settle its budget, count it, keep its record. Never raises."""
        self.in_flight -= exchange.admitted
        try:
            if exchange.route is not None:
                exchange.booked_usd = self.budget.settle(exchange.route.reserved_usd, _certain_usd(exchange))
            exchange.latency_s = time.perf_counter() - exchange.started
            self.metrics.end(
                self._arm_label(exchange.arm_id),
                exchange.status,
                exchange.error_code or "",
                exchange.latency_s,
                exchange.ttft_s,
            )
            self.metrics.spent(exchange.ledger)
            self.store.put(to_record(exchange, log_content=self.resolved.config.store.log_content))
        except Exception:
            logger.exception("request %s could not be recorded", exchange.decision_id)

    def _arm_label(self, arm_id: str) -> str:
        """The arm as a metric label. Callers can pin any budget, so arms outside the configuration share one label."""
        return arm_id if arm_id in self._listed_arms or arm_id == "none" else "other"

    def model(self, arm: Arm) -> Model:
        """The model an arm uses first."""
        return self.resolved.models[arm.models[0]]

    def thinking_format(self, arm: Arm) -> ThinkingFormat:
        """How the arm's first model writes thinking."""
        family = self.model(arm).family
        return ThinkingFormat(family.open_text, family.close_text, family.stop_text)

    def decision_point(self, arm: Arm) -> DecisionPoint | None:
        """Where the arm's first model decides whether to think; None when nothing is known of that."""
        family = self.model(arm).family
        return DecisionPoint(family.direct_text, family.direct_token) if family.direct_token else None

    def ignored_fields(self, arm: Arm, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Options the arm's engine does not know; an HTTP upstream gets them all."""
        if self.model(arm).engine != "embedded":
            return ()
        from thinkroute.engines.embedded import KNOWN_OPTIONS

        return tuple(sorted(name for name in options if name not in KNOWN_OPTIONS))
