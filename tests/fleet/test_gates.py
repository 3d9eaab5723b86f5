"""Gates: judged from the cells, met or missed, only where the cells are there."""

from __future__ import annotations

from thinkroute.fleet.evaluate import EFFORTS, Cell, Obedience, Report
from thinkroute.fleet.gates import judge
from thinkroute.fleet.shipped import MEMBERS
from thinkroute.fleet.tasks import FAMILIES, LEVELS


def ideal(member: str, effort: str, family: str, level: int) -> float:
    """Accuracies of a fleet that keeps every promise."""
    if effort != "on":
        return max(0.1, 1.0 - 0.2 * (level - 1) * (1 - EFFORTS.index(effort) / len(EFFORTS)))
    return 1.0 if family in MEMBERS[member].domain else 0.2


def report(**changes: float) -> Report:
    """A full report; `changes` maps `member__effort__family` to an accuracy on every level."""
    cells = [
        Cell(
            member,
            effort,
            family,
            level,
            80,
            changes.get(
                f"{member}__{effort}__{family}".replace("-", "_").replace("=", "_"),
                ideal(member, effort, family, level),
            ),
            20.0,
            10.0,
            14.0,
        )
        for member in MEMBERS
        for effort in EFFORTS
        for family in FAMILIES
        for level in LEVELS
    ]
    obedience = [Obedience(member, "none", 100, changes.get("obeyed", 1.0)) for member in MEMBERS]
    return Report(tuple(cells), tuple(obedience))


def missed(measured: Report) -> set[str]:
    return {gate.name for gate in judge(measured) if not gate.passed}


def test_every_promise_of_the_ideal_teacher_and_experts_is_met() -> None:
    names = missed(report())
    assert not any(
        name.startswith(("teacher, thinking", "expert-people, own", "student, behind")) for name in names
    )


def test_a_weak_teacher_misses_every_level() -> None:
    weak = report(**{f"teacher__on__{family}": 0.9 for family in FAMILIES})
    assert {f"teacher, thinking, level {level}" for level in LEVELS} <= missed(weak)


def test_an_expert_that_knows_everything_is_no_expert() -> None:
    know_all = report(**{f"expert_people__on__{family}": 1.0 for family in FAMILIES})
    assert any(name.startswith("expert-people, foreign") for name in missed(know_all))


def test_a_student_as_good_as_the_teacher_leaves_no_gap() -> None:
    equal = report(**{f"student__on__{family}": 1.0 for family in FAMILIES})
    assert "student, behind the teacher, both thinking" in missed(equal)


def test_a_fall_under_a_larger_budget_and_disobedience_are_missed() -> None:
    falls = report(**{f"teacher__budget_32__{family}": 0.0 for family in FAMILIES}, obeyed=0.9)
    assert {"teacher, largest fall as the budget grows", "teacher, thinks as asked"} <= missed(falls)


def test_without_the_cells_there_is_no_gate() -> None:
    whole = report()
    only = Report(tuple(cell for cell in whole.cells if cell.member == "student"), ())
    assert {gate.name.split(",")[0] for gate in judge(only)} == {"student"}
    assert judge(Report(tuple(cell for cell in only.cells if cell.effort == "off"), ())) == []
