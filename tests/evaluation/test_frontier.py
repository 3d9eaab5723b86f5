"""Sliding the dial offline is the policy's own choice, many queries at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkroute.evaluation.frontier import choose_many, costs_of, dial, replay, sweep
from thinkroute.policy import choose
from thinkroute.routers import OutcomeTable
from thinkroute.types import Arm, ComputePrices, Effort, Estimate, Prediction

ARMS = tuple(Arm("direct", (name,), Effort("off")) for name in ("a", "b", "c"))
numbers = st.lists(st.tuples(st.floats(0, 1), st.floats(0.001, 2)), min_size=3, max_size=3)


@given(st.lists(numbers, min_size=1, max_size=5), st.floats(0.001, 100))
@settings(deadline=None)
def test_choices_are_those_of_the_policy(rows: list[list[tuple[float, float]]], value: float) -> None:
    quality = np.array([[q for q, _ in row] for row in rows])
    cost = np.array([[c for _, c in row] for row in rows])
    mine = choose_many(quality, cost, value, np.ones(quality.shape, dtype=np.bool_))
    for row, choice in zip(rows, mine, strict=True):
        predictions = {
            arm.id: Prediction(quality=Estimate(q), cost_usd=Estimate(c))
            for arm, (q, c) in zip(ARMS, row, strict=True)
        }
        decision = choose(ARMS, predictions, ComputePrices(value), {})
        assert decision is not None
        assert decision.arm is ARMS[choice]


def test_the_ends_of_the_dial_are_cheapest_and_best() -> None:
    quality, cost = np.array([[0.1, 0.9, 0.9]]), np.array([[1.0, 3.0, 2.0]])
    allowed = np.ones((1, 3), dtype=np.bool_)
    assert choose_many(quality, cost, 0.0, allowed).tolist() == [0]
    assert choose_many(quality, cost, np.inf, allowed).tolist() == [2]
    assert choose_many(quality, cost, np.inf, np.array([[True, False, False]])).tolist() == [0]


def test_an_arm_of_unknown_cost_is_not_chosen() -> None:
    quality, cost = np.array([[0.1, 0.9]]), np.array([[1.0, np.nan]])
    for value in (0.0, 1.0, np.inf):
        assert choose_many(quality, cost, value, np.ones((1, 2), dtype=np.bool_)).tolist() == [0]


def test_the_dial_reaches_both_ends_of_every_mix() -> None:
    rng = np.random.default_rng(0)
    quality, cost = rng.uniform(size=(50, 4)), rng.uniform(0.5, 1.5, (50, 4)) * [0.001, 0.01, 0.1, 1.0]
    values = dial(cost)
    choices = sweep(quality, cost, values, np.ones(quality.shape, dtype=np.bool_))
    np.testing.assert_array_equal(choices[1], choices[0])
    assert (choices[-2] == choices[-1]).mean() > 0.9
    mean_cost = replay(choices, quality, cost).cost_VQ.mean(axis=1)
    assert np.all(np.diff(mean_cost) >= -1e-12), "a higher value never spends less on what it believes"


def test_costs_are_dollars_else_generated_tokens_else_nothing() -> None:
    def table(**measured: list[list[float]]) -> OutcomeTable:
        arrays = {name: np.array(cells) for name, cells in {"quality": [[1.0, 0.0]], **measured}.items()}
        return OutcomeTable(("q",), ("t",), ("a", "b"), arrays)  # pyright: ignore[reportArgumentType]

    dollars = costs_of(table(cost_usd=[[1.0, 2.0]], answer_tokens=[[5.0, 6.0]]))
    tokens = costs_of(table(reasoning_tokens=[[10.0, 0.0]], answer_tokens=[[5.0, 6.0]]))
    assert dollars is not None
    assert dollars.unit == "usd"
    assert tokens is not None
    assert (tokens.unit, tokens.cost_QA.tolist()) == ("tokens", [[15.0, 6.0]])
    assert costs_of(table()) is None


def test_replay_reads_the_chosen_cells() -> None:
    got = replay(
        np.array([[0, 1], [1, 1]]), np.array([[1.0, 0.5], [0.25, 0.0]]), np.array([[3.0, 4.0], [5.0, 6.0]])
    )
    assert got.quality_VQ.tolist() == [[1.0, 0.0], [0.5, 0.0]]
    assert got.cost_VQ.tolist() == [[3.0, 6.0], [4.0, 6.0]]


def test_a_free_table_has_a_dial_of_two_ends() -> None:
    assert dial(np.zeros((2, 2))).tolist() == pytest.approx([0.0, np.inf])
