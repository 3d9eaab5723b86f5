"""The stored report of the signals: cards and reliability bins as JSON, so that no number stands in a picture alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from thinkroute.routers.realtext.law import PriorLaw
from thinkroute.signals.head_training import HeadReport
from thinkroute.signals.semantic import SignalsCard


class SignalsReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything `thinkroute signals train` measured."""

    command: str
    card: SignalsCard
    reliability: dict[str, HeadReport]
    """Head → what left-out texts showed; `bigmath_own` is a head fitted on Big-Math alone, and not shipped."""
    prior: PriorLaw


def write_report(card: SignalsCard, reports: Mapping[str, HeadReport], prior: PriorLaw, path: Path) -> None:
    """Write it as JSON."""
    report = SignalsReport(command=card.command, card=card, reliability=dict(reports), prior=prior)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
