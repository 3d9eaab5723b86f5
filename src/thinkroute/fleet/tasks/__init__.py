"""Synthetic graded reasoning problems in a closed language, with exact verifiers. Never imports torch.

Five families at levels 1 – 5: chained arithmetic, short counting stories, multi-hop relations, arithmetic with rare
operators, and typed compositions (people → a number → operations on it). Invariants: every generated question is
recognised as itself, by one family; the splits share no question; grading accepts the true answer only.
"""

from __future__ import annotations

from thinkroute.fleet.tasks.problem import LEVELS, FamilyName, Problem, Split, TaskFamily, split_of
from thinkroute.fleet.tasks.scope import (
    EXAMPLES,
    FAMILIES,
    check_scope,
    generate,
    grade,
    recognise,
    result_of,
    scope_message,
)

__all__ = [
    "EXAMPLES",
    "FAMILIES",
    "LEVELS",
    "FamilyName",
    "Problem",
    "Split",
    "TaskFamily",
    "check_scope",
    "generate",
    "grade",
    "recognise",
    "result_of",
    "scope_message",
    "split_of",
]
