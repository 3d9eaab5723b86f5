"""Relay arms in the gateway: building the program under the configured limits, and what the card says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thinkroute.config import Resolved
from thinkroute.errors import ConfigError
from thinkroute.programs.effects import Program
from thinkroute.programs.relay import HandOver, RelayLimits, RelayLog, relay
from thinkroute.store.record import HandOverRecord, RelayRecord
from thinkroute.types import LedgerEntry
from thinkroute.wire.raw_prompt import has_raw_template

if TYPE_CHECKING:
    from thinkroute.gateway.exchange import Exchange
    from thinkroute.gateway.runtime import Runtime


def check_relays(resolved: Resolved) -> None:
    """Whether every relay arm can hand a message over.

    Raises:
        ConfigError: the prompt of an upstream's model family cannot be written as raw text.
    """
    for arm in resolved.every_arm:
        for name in arm.models if arm.program == "relay" else ():
            model = resolved.models[name]
            if model.engine == "embedded":
                continue
            if model.family.control == "effort_field" and arm.effort.level != "default":
                raise ConfigError(
                    f"arm {arm.id!r}: a raw message carries no effort, and model {name!r} takes it in a field of the"
                    " request; use effort default",
                    param="arms",
                )
            if not has_raw_template(model.family):
                raise ConfigError(
                    f"arm {arm.id!r}: no raw template of family {model.family.name!r} is known, "
                    f"so model {name!r} cannot be handed a message",
                    param="arms",
                )


def relay_program(runtime: Runtime, exchange: Exchange) -> Program:
    """The program of a chosen relay arm; its log becomes the exchange's."""
    route, section = exchange.known_route, runtime.resolved.config.relay
    limits = RelayLimits(section.most_calls, section.most_tokens_per_call, section.teacher_timeout_s)
    log = exchange.relay = RelayLog()
    return relay(route.runs_as, route.max_tokens, runtime.thinking_format(route.runs_as), limits, log)


def relay_record(exchange: Exchange) -> RelayRecord | None:
    """What a relay did, every hand-over with its cost; None for every other program."""
    if exchange.relay is None or exchange.route is None:
        return None
    student, teacher = exchange.route.decision.arm.models
    log, entries = exchange.relay, exchange.ledger.entries
    return RelayRecord(
        student=student,
        teacher=teacher,
        teacher_share=log.teacher_share,
        teacher_share_asked=log.teacher_share_asked,
        hand_overs=tuple(_hand_over(each, entries) for each in log.hand_overs),
    )


def _hand_over(hand_over: HandOver, entries: tuple[LedgerEntry, ...]) -> HandOverRecord:
    place = hand_over.leg
    leg = entries[place] if place is not None and place < len(entries) else None
    return HandOverRecord(
        outcome=hand_over.outcome,
        after_tokens=hand_over.after_tokens,
        asked_tokens=hand_over.asked_tokens,
        granted_tokens=hand_over.granted_tokens,
        tokens=hand_over.tokens,
        cost_usd=leg.cost_usd if leg else 0.0 if place is None else None,
        latency_s=leg.latency_s if leg else 0.0,
        error=hand_over.error,
    )
