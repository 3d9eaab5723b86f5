"""Routers: predict quality, tokens, latency and dollars of every arm for a query. One module per router.

`ROUTERS` is the table of routers; looking a name up imports its module. `fit_router` fits one on an outcome table,
`save_router` and `load_router` keep it as a versioned artefact (see `artefact`).
"""

from __future__ import annotations

from thinkroute.routers.artefact import CalibrationCard, RouterCard, load_router, read_card, save_router
from thinkroute.routers.base import Moments, Predictions, Router, RouterKind, RouterState, TableRouter
from thinkroute.routers.registry import ROUTERS, fit_router, router_kind
from thinkroute.routers.table import MEASURES, Measure, OutcomeTable, table_from_outcomes

__all__ = [
    "MEASURES",
    "ROUTERS",
    "CalibrationCard",
    "Measure",
    "Moments",
    "OutcomeTable",
    "Predictions",
    "Router",
    "RouterCard",
    "RouterKind",
    "RouterState",
    "TableRouter",
    "fit_router",
    "load_router",
    "read_card",
    "router_kind",
    "save_router",
    "table_from_outcomes",
]
