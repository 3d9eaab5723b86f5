"""Routing from outside: the share of tokens it may spend, and who wins when the truth is known."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkroute.training.external import Modes, against, predict, thinking_shares
from thinkroute.training.measure import Answered
from thinkroute.training.tasks import EASY_HEAVY, FleetTask

UNIFORM = (0.2,) * 5


def rows(correct: list[float], tokens: list[int], direct: bool) -> list[Answered]:
    levels = [1 + place % 5 for place in range(len(correct))]
    return [
        Answered(level, "story", right, count, direct, float(direct))
        for level, right, count in zip(levels, correct, tokens, strict=True)
    ]


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 10)), min_size=1, max_size=30), st.floats(-5, 400))
def test_exactly_the_allowed_tokens_are_spent_on_the_most_worthwhile(
    questions: list[tuple[float, float]], allowed: float
) -> None:
    worth, extra = (np.array(column) for column in zip(*questions, strict=True))
    part = thinking_shares(worth, extra, allowed)
    assert ((part >= 0) & (part <= 1)).all()
    assert extra @ part == pytest.approx(np.clip(allowed, 0, extra.sum()), abs=1e-6)
    best = np.argsort(-worth, kind="stable")
    spent = part[best][extra[best] > 0]
    assert (np.diff(spent) <= 1e-9).all()  # nobody is thought on before somebody more worthwhile is in full


def test_a_router_that_knows_the_gains_beats_the_random_mix_and_equals_the_oracle() -> None:
    """Half of all questions need thinking. With the tokens for half, coins get three quarters, knowledge all."""
    needs = [float(place % 2) for place in range(200)]
    known = Modes(
        rows([1 - need for need in needs], [10] * 200, direct=True),
        rows([1.0] * 200, [50] * 200, direct=False),
    )
    free = rows([1.0] * 200, [50 if need else 10 for need in needs], direct=False)
    gain, cost = np.array(needs), np.full(200, 40.0)
    found = against(free, known, {"knows": (gain, cost), "inverted": (-gain, cost)}, UNIFORM)
    assert found["accuracy"] == 1.0
    assert found["tokens"] == 30.0
    assert found["best_router"] == "knows"
    assert found["gain_over_best_router"] == [0.0, 0.0, 0.0]
    mean, low, high = cast("list[float]", found["gain_over_random_mix"])
    assert mean == pytest.approx(0.25, abs=1e-6)
    assert low < mean < high


def test_routers_learn_from_the_initial_models_outcomes_what_thinking_is_worth() -> None:
    """Where only long questions gain from thinking, every router must rank them first on unseen ones."""
    task = FleetTask(("story",), EASY_HEAVY)
    seen, unseen = task.by_level(24, 0, "filter"), task.by_level(8, 1, "eval")
    known = Modes(
        *(
            [
                Answered(
                    item.level,
                    item.family,
                    float(thinks or item.level < 3),
                    60 if thinks else 15,
                    not thinks,
                    0,
                )
                for item in seen
            ]
            for thinks in (False, True)
        )
    )
    for name, (gain, cost) in predict(seen, known, unseen).items():
        hard = np.array([item.level >= 3 for item in unseen])
        assert gain[hard].mean() > gain[~hard].mean() + 0.3, name
        assert cost.mean() == pytest.approx(45, abs=5), name
