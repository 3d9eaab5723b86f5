"""What the members must be, judged on an evaluation. Torch-free.

The bounds are the project's promise about its test bed: a clear gap between thinking and not thinking, between student
and teacher, and between experts. `thinkroute fleet eval` prints and stores them, met or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from thinkroute.fleet.evaluate import EFFORTS, Report
from thinkroute.fleet.shipped import MEMBERS, Member
from thinkroute.fleet.tasks import FAMILIES, LEVELS

_EQUAL = 0.02
"""Two accuracies this close count as equal."""
_SINGLE_QUESTIONS = 0.002
"""A budget that cuts hardly anything and none at all differ by single questions of 2,000, either way."""
_NOISE = 0.05
"""Two standard errors of the difference of two accuracies near chance, 400 questions each."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One promise and what was measured."""

    name: str
    measured: float
    bound: str
    """As it reads: `>= 0.97`."""
    passed: bool


def at_least(name: str, measured: float, bound: float) -> Gate:
    """A value that must not be below its bound."""
    return Gate(name, measured, f">= {bound:g}", measured >= bound)


def at_most(name: str, measured: float, bound: float) -> Gate:
    """A value that must not be above its bound."""
    return Gate(name, measured, f"<= {bound:g}", measured <= bound)


def judge(report: Report, members: Mapping[str, Member] = MEMBERS) -> list[Gate]:
    """Every gate that the evaluation has the cells for."""
    measured = {cell.member for cell in report.cells}
    efforts = {cell.effort for cell in report.cells}
    gates: list[Gate] = []
    if {"off", "on"} <= efforts and "teacher" in measured:
        gates += _teacher(report)
        if "student" in measured:
            gates += _student(report)
    if "on" in efforts:
        for name in measured & {name for name in members if name.startswith("expert-")}:
            gates += _expert(report, name, members[name])
    for name in [name for name in members if name in measured]:
        gates += _obedience(report, name)
        if set(EFFORTS) <= efforts and any(effort.budget_tokens for effort in members[name].efforts):
            gates.append(_budgets(report, name))
    return sorted(gates, key=lambda gate: list(members).index(gate.name.split(",")[0]))


def _largest_rise(values: Sequence[float]) -> float:
    """By how much a value most exceeds the one before it; 0 or less when they never rise."""
    return max(after - before for before, after in pairwise(values))


def _teacher(report: Report) -> Iterator[Gate]:
    for level in LEVELS:
        yield at_least(f"teacher, thinking, level {level}", report.accuracy("teacher", "on", level), 0.97)
    direct = [report.accuracy("teacher", "off", level) for level in LEVELS]
    yield at_least("teacher, not thinking, level 1", direct[0], 0.95)
    yield at_most("teacher, not thinking, level 5", direct[-1], 0.35)
    yield at_most("teacher, not thinking, largest rise from level to level", _largest_rise(direct), _NOISE)


def _student(report: Report) -> Iterator[Gate]:
    gap = report.accuracy("teacher", "on") - report.accuracy("student", "on")
    yield at_least("student, behind the teacher, both thinking", gap, 0.25)
    closest = min(
        report.accuracy("teacher", "on", family=family) - report.accuracy("student", "on", family=family)
        for family in FAMILIES
    )
    yield at_most("student, behind the teacher on its best family", closest, _EQUAL)


def _expert(report: Report, name: str, member: Member) -> Iterator[Gate]:
    for family in member.domain:
        yield at_least(f"{name}, own domain {family}", report.accuracy(name, "on", family=family), 0.95)
    others = {
        family: report.accuracy(name, "on", family=family)
        for family in FAMILIES
        if family not in member.domain
    }
    worst = min(others, key=others.__getitem__)
    yield at_most(f"{name}, foreign domain {worst}", others[worst], 0.40)


def _obedience(report: Report, name: str) -> Iterator[Gate]:
    lines = [line for line in report.obedience if line.member == name]
    if lines:
        asked = sum(line.questions for line in lines)
        obeyed = sum(line.obeyed * line.questions for line in lines) / asked
        yield at_least(f"{name}, thinks as asked", obeyed, 0.99)


def _budgets(report: Report, name: str) -> Gate:
    curve = [report.accuracy(name, effort) for effort in EFFORTS]
    fall = -min(b - a for a, b in pairwise(curve))
    return at_most(f"{name}, largest fall as the budget grows", fall, _SINGLE_QUESTIONS)
