"""Calibration, RouterArena's score, equal cost and the prompt-length baseline, against numbers worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkroute.evaluation import metrics
from thinkroute.evaluation.arena import arena, arena_score
from thinkroute.evaluation.calibration import Cells, calibration, expected_error, reliability
from thinkroute.evaluation.equal_cost import ResampledHulls, against_single
from thinkroute.evaluation.prompt_length import fit_prompt_length
from thinkroute.routers import OutcomeTable
from thinkroute.types import Query


def array(*numbers: float) -> metrics.FloatArray:
    return np.array(numbers, dtype=np.float64)


def test_calibration_error_by_hand() -> None:
    """Two bins of two: |.15 − .5| and |.85 − 1|, each half of the mass: .25."""
    bins = reliability(Cells(array(0.1, 0.2, 0.8, 0.9), array(0, 1, 1, 1)), bins=2)
    assert [(found.predicted, found.measured, found.cells) for found in bins] == [
        (pytest.approx(0.15), 0.5, 2),
        (pytest.approx(0.85), 1.0, 2),
    ]
    assert expected_error(bins) == pytest.approx(0.25)


def test_equal_predictions_share_a_bin_so_that_their_order_cannot_matter() -> None:
    cells = Cells(np.full(100, 0.5), np.repeat([0.0, 1.0], 50))
    assert len(reliability(cells)) == 1
    assert expected_error(reliability(cells)) == 0


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=80))
@settings(max_examples=80)
def test_bins_hold_every_cell_once_and_the_error_is_a_share(cells: list[tuple[float, float]]) -> None:
    predicted, measured = np.array(cells).T
    bins = reliability(Cells(predicted, measured))
    assert sum(found.cells for found in bins) == len(cells)
    assert 0 <= expected_error(bins) <= 1
    assert [found.predicted for found in bins] == sorted(found.predicted for found in bins)


def test_perfect_predictions_have_no_more_error_than_chance_gives() -> None:
    rng = np.random.default_rng(0)
    predicted = rng.uniform(size=20_000)
    cells = Cells(predicted, (rng.uniform(size=20_000) < predicted).astype(np.float64))
    found = calibration(cells, Cells(predicted[:1000], cells.measured_C[:1000] - 0.1))
    assert found.ece < 0.012
    assert found.brier == pytest.approx(1 / 6, abs=0.01)
    assert found.chosen_excess == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize(
    ("accuracy", "usd_per_1000", "score"),
    [(0.7859, 0.2, None), (1.0, 0.0044, 1.0), (0.5, 200.0, 0.0), (0.5, 1e9, 0.0), (0.0, 1.0, 0.0)],
)
def test_routerarenas_score(accuracy: float, usd_per_1000: float, score: float | None) -> None:
    cheapness = math.log(200 / usd_per_1000) / math.log(200 / 0.0044)
    wanted = 1.1 * accuracy * cheapness / (0.1 * accuracy + cheapness) if score is None else score
    assert arena_score(accuracy, usd_per_1000) == pytest.approx(wanted)


def test_routerarenas_ratios_by_hand() -> None:
    """Rows 0 and 1 are right; row 0 took the cheapest right arm, row 1 the dear one: 1/2, (1 + 2)/(1 + 8), 2 of 3."""
    quality_RA = np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    cost_RA = np.array([[0.001, 0.008], [0.002, 0.008], [0.001, 0.008]])
    found = arena(np.array([[0, 1, 1]]), quality_RA, cost_RA, np.array([0, 0, 0]))
    assert found.optimal_selection == pytest.approx(1 / 2)
    assert found.optimal_cost == pytest.approx(3 / 9)
    assert found.optimal_accuracy == pytest.approx(2 / 3)
    assert found.score == found.best_score == pytest.approx(arena_score(2 / 3, 17 / 3))
    nothing = arena(np.array([[1, 1, 1]]), quality_RA * 0.5, cost_RA, np.array([0, 0, 0]))
    assert nothing.optimal_selection is nothing.optimal_cost is None


def test_quality_at_the_single_arms_cost_and_cost_at_its_quality() -> None:
    """The hull runs from (1, .4) to (3, .8): at cost 2 it has .6, and the arm's .5 costs 1.5, 75 % of 2."""
    quality_VR, cost_VR = np.array([[0.4] * 6, [0.8] * 6]), np.array([[1.0] * 6, [3.0] * 6])
    weight_BR = metrics.resample(np.arange(6, dtype=np.intp), 50, seed=0)
    hulls = ResampledHulls(quality_VR, cost_VR, weight_BR)
    found = against_single(hulls, np.full(6, 0.5), np.full(6, 2.0), weight_BR)
    assert found.quality_gain is not None
    assert (found.quality_gain.mean, found.quality_gain.low) == pytest.approx((0.1, 0.1))
    assert (found.cost_share, found.cost_share_low, found.cost_share_high) == pytest.approx((0.75,) * 3)
    assert found.reached == 1
    never = against_single(hulls, np.full(6, 0.9), np.full(6, 2.0), weight_BR)
    assert (never.cost_share, never.cost_share_low, never.cost_share_high) == (None, None, None)
    assert never.reached == 0
    dear = against_single(hulls, np.full(6, 0.5), np.full(6, 0.5), weight_BR)
    assert dear.quality_gain is None


def test_a_quality_reached_in_some_resamples_only_has_an_open_interval() -> None:
    rng = np.random.default_rng(0)
    right_R = (rng.uniform(size=200) < 0.5).astype(np.float64)
    other_R = (rng.uniform(size=200) < 0.5).astype(np.float64)
    weight_BR = metrics.resample(np.arange(200, dtype=np.intp), 300, seed=0)
    hulls = ResampledHulls(np.stack([right_R]), np.ones((1, 200)), weight_BR)
    found = against_single(hulls, other_R, np.full(200, 2.0), weight_BR)
    assert 0.05 < found.reached < 0.95
    assert found.cost_share_low == pytest.approx(0.5)
    assert found.cost_share_high is None


def test_the_prompt_length_baseline_knows_lengths_and_nothing_else() -> None:
    texts = tuple("x" * n for n in (10, 12, 14, 16, 18, 200, 220, 240, 260, 280) * 10)
    long_Q = np.array([len(text) > 100 for text in texts], dtype=np.float64)
    quality_QA = np.stack([1 - long_Q, long_Q], axis=1)
    quality_QA[0] = np.nan
    table = OutcomeTable(
        query_ids=tuple(map(str, range(100))),
        texts=texts,
        arms=("short", "long"),
        measured={"quality": quality_QA, "cost_usd": np.full((100, 2), 0.25)},
    )
    router = fit_prompt_length(table)
    for text, best in (("y" * 13, "short"), ("word " * 50, "long"), ("", "short"), ("z" * 9999, "long")):
        found = router.predict(Query(text), table.arms)
        assert max(table.arms, key=lambda arm: found[arm].quality.mean) == best
        cost = found[best].cost_usd
        assert cost is not None
        assert cost.mean == pytest.approx(0.25)
    assert router.predict(Query("y" * 13), table.arms) == router.predict(Query("q" * 13), table.arms)
