"""Routing after the first tokens: when an answer is good enough, when to go on, and where to.

`fit_cascade` learns from outcomes with answer features, `save_cascade` and `load_cascade` keep the result, `CascadeRules`
puts it to work inside `thinkroute.programs.cascade`. The parts: `features` (what an answer says of itself), `verifier` (the
calibrated heads), `forest` and `planner` (stop, escalate or jump), `fitted`, `saving`, `rule`.
"""

from __future__ import annotations

from thinkroute.routers.cascade.answers import Answers
from thinkroute.routers.cascade.features import FEATURES, answer_features
from thinkroute.routers.cascade.fitted import CascadeSettings, FittedCascade, fit_cascade
from thinkroute.routers.cascade.rule import CascadeRules
from thinkroute.routers.cascade.saving import CascadeCard, load_cascade, read_cascade_card, save_cascade

__all__ = [
    "FEATURES",
    "Answers",
    "CascadeCard",
    "CascadeRules",
    "CascadeSettings",
    "FittedCascade",
    "answer_features",
    "fit_cascade",
    "load_cascade",
    "read_cascade_card",
    "save_cascade",
]
