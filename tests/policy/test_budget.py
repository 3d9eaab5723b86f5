"""The spend controller."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkroute.policy import SpendBudget
from thinkroute.policy.budget import DAY_S


class Clock:
    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def test_reserving_and_settling_move_what_is_left() -> None:
    budget = SpendBudget(1.0, Clock())
    reserved = budget.reserve(0.4)
    assert budget.left_usd == pytest.approx(0.6)
    budget.settle(reserved, 0.1)
    assert budget.left_usd == pytest.approx(0.9)


def test_an_unknown_cost_books_the_reservation() -> None:
    budget = SpendBudget(1.0, Clock())
    budget.settle(budget.reserve(0.4), None)
    assert budget.left_usd == pytest.approx(0.6)


def test_a_new_day_starts_full_but_calls_under_way_stay_reserved() -> None:
    clock = Clock(DAY_S - 1)
    budget = SpendBudget(1.0, clock, spent_today_usd=0.9)
    budget.reserve(0.05)
    clock.now_s = DAY_S + 1
    assert budget.left_usd == pytest.approx(0.95)


def test_the_shadow_price_rises_only_when_spend_runs_ahead_of_the_clock() -> None:
    clock = Clock(DAY_S / 2)
    assert SpendBudget(1.0, clock, 0.5).mu_spend == 0
    assert SpendBudget(1.0, clock, 0.75).mu_spend == pytest.approx(2.0)
    assert SpendBudget(1.0, clock, 1.0).mu_spend == pytest.approx(4.0)


def test_without_a_limit_nothing_is_priced_up_or_refused() -> None:
    budget = SpendBudget(None, Clock(), 1e9)
    assert budget.left_usd is None
    assert budget.mu_spend == 0


@given(st.lists(st.tuples(st.floats(0, 0.2), st.floats(0, 1)), max_size=50))
def test_worst_case_reservations_keep_the_day_within_the_limit(calls: list[tuple[float, float]]) -> None:
    """If every call reserves its worst case when there is room, real spend never passes the limit."""
    budget = SpendBudget(1.0, Clock())
    spent = 0.0
    for worst, share in calls:
        left = budget.left_usd
        assert left is not None
        if worst <= left:
            reserved = budget.reserve(worst)
            budget.settle(reserved, worst * share)
            spent += worst * share
    assert spent <= 1.0 + 1e-9
