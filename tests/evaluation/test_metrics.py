"""Every metric against a number worked out by hand, and the laws between them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkroute.evaluation import metrics
from thinkroute.evaluation.metrics import hull


def array(*numbers: float) -> metrics.FloatArray:
    return np.array(numbers, dtype=np.float64)


def test_the_hull_drops_dominated_and_sagging_points() -> None:
    """(2, .5) lies under the line from (1, .4) to (3, .8); (4, .7) costs more than (3, .8) without being better."""
    got = hull(array(4, 2, 1, 3), array(0.7, 0.5, 0.4, 0.8))
    assert got.cost_H.tolist() == [1, 3]
    assert got.quality_H.tolist() == [0.4, 0.8]


def test_quality_on_the_hull_is_a_straight_mix() -> None:
    got = hull(array(1, 3), array(0.4, 0.8))
    assert got.quality_at(2) == pytest.approx(0.6)
    assert got.quality_at(9) == pytest.approx(0.8)
    assert math.isnan(got.quality_at(0.5))
    assert got.cost_of(0.7) == pytest.approx(2.5)
    assert got.cost_of(0.1) == 1
    assert math.isnan(got.cost_of(0.9))


def test_aiq_is_the_mean_height_of_the_hull_over_the_range() -> None:
    """From 1 to 3 the hull rises from .4 to .8 (mean .6), from 3 to 5 it stays at .8: (2·.6 + 2·.8) / 4 = .7."""
    assert metrics.aiq(hull(array(1, 3), array(0.4, 0.8)), 1, 5) == pytest.approx(0.7)


def test_aiq_counts_unreachable_costs_as_zero() -> None:
    """Nothing is reachable on half of the range [0, 2]; the other half has .8: .4."""
    assert metrics.aiq(hull(array(1), array(0.8)), 0, 2) == pytest.approx(0.4)
    assert metrics.aiq(hull(array(7), array(0.8)), 0, 2) == 0


def test_aiq_of_a_constant_at_the_start_of_the_range_is_its_quality() -> None:
    assert metrics.aiq(hull(array(1), array(0.55)), 1, 9) == pytest.approx(0.55)
    assert metrics.aiq(hull(array(1), array(0.55)), 1, 1) == pytest.approx(0.55)


def test_performance_gap_recovered() -> None:
    assert metrics.pgr(0.7, 0.6, 0.8) == pytest.approx(0.5)
    assert math.isnan(metrics.pgr(0.7, 0.6, 0.6))


def test_pgr_curve_apgr_and_cpt_by_hand() -> None:
    """Gains 1, 0, 1, 0 in the router's order: the curve is 0, ½, ½, 1, 1 and its area (.25 + .5 + .75 + 1) / 4."""
    curve = metrics.pgr_curve(array(4, 3, 2, 1), array(0, 0, 0, 0), array(1, 0, 1, 0))
    assert curve.tolist() == [0, 0.5, 0.5, 1, 1]
    assert metrics.apgr(curve) == pytest.approx(0.625)
    assert metrics.cpt(curve, 0.5) == pytest.approx(0.25)
    assert metrics.cpt(curve, 0.8) == pytest.approx(0.75)
    points = [0.1, 0.3, 0.5, 0.5, 0.5, 0.6, 0.8, 1.0, 1.0, 1.0]
    assert metrics.apgr_ten_point(curve) == pytest.approx(np.mean(points))


def test_equal_margins_give_the_random_line() -> None:
    curve = metrics.pgr_curve(array(1, 1, 1, 1), array(0, 0, 0, 0), array(1, 0, 0, 0))
    assert curve == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert metrics.apgr(curve) == pytest.approx(0.5)
    assert metrics.apgr_ten_point(curve) == pytest.approx(0.5)


def test_arms_of_equal_quality_have_no_gap_to_recover() -> None:
    curve = metrics.pgr_curve(array(1, 2), array(1, 0), array(0, 1))
    assert np.isnan(curve).all()
    assert math.isnan(metrics.cpt(curve, 0.5))


def test_cost_share_at_the_best_arms_quality() -> None:
    """The hull reaches .7 at cost 2.5; the best arm pays 5 for it."""
    assert metrics.cost_share(hull(array(1, 3), array(0.4, 0.8)), 0.7, 5) == pytest.approx(0.5)
    assert math.isnan(metrics.cost_share(hull(array(1), array(0.4)), 0.7, 5))


def test_arm_shares_and_entropy() -> None:
    shares = metrics.arm_shares(np.array([0, 2, 2, 2], dtype=np.intp), 3)
    assert shares.tolist() == [0.25, 0, 0.75]
    assert metrics.entropy_bits(shares) == pytest.approx(0.25 * 2 + 0.75 * math.log2(4 / 3))
    assert metrics.entropy_bits(array(1, 0)) == 0


def test_the_oracle_takes_the_cheapest_of_the_best_and_never_a_missing_cell() -> None:
    quality = np.array([[1, 1, 0.5], [np.nan, 0.2, 0.2], [0, np.nan, np.nan]])
    cost = np.array([[3, 2, 1], [0, 5, 4], [1, 0, 0]])
    assert metrics.oracle(quality, cost).tolist() == [1, 2, 0]
    assert metrics.oracle(quality, None).tolist() == [0, 1, 0]


def test_truncation_rate_counts_only_known_ends() -> None:
    assert metrics.truncation_rate(np.array(["length", "stop", "", "length"])) == pytest.approx(2 / 3)
    assert math.isnan(metrics.truncation_rate(np.array([""])))


def test_rows_of_one_query_share_their_bootstrap_draw() -> None:
    weights = metrics.resample(np.array([0, 1, 1, 2]), 500, seed=1)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_array_equal(weights[:, 1], weights[:, 2])
    np.testing.assert_array_equal(weights, metrics.resample(np.array([0, 1, 1, 2]), 500, seed=1))


def test_paired_intervals_cover_the_truth_as_often_as_they_promise() -> None:
    """200 samples of 100 differences with mean 0.1: 95 % of the intervals hold it, give or take."""
    rng = np.random.default_rng(5)
    held = 0
    weights = metrics.resample(np.arange(100), 300, seed=0)
    for _ in range(200):
        base = rng.normal(size=100)
        found = metrics.paired_interval(base + 0.1 + rng.normal(0, 0.5, 100), base, weights)
        held += found.low <= 0.1 <= found.high
    assert 180 <= held <= 199


def test_a_constant_difference_has_an_interval_without_width() -> None:
    weights = metrics.resample(np.arange(10), 50, seed=0)
    found = metrics.paired_interval(np.full(10, 0.7), np.full(10, 0.5), weights)
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.2, 0.2))


points = st.lists(st.tuples(st.floats(0.01, 10), st.floats(0, 1)), min_size=1, max_size=12)


@given(points)
@settings(deadline=None)
def test_the_hull_covers_every_point_and_bends_only_downwards(pairs: list[tuple[float, float]]) -> None:
    cost, quality = np.array([c for c, _ in pairs]), np.array([q for _, q in pairs])
    found = hull(cost, quality)
    for c, q in pairs:
        assert found.quality_at(c) >= q - 1e-9
    slope = np.diff(found.quality_H) / np.diff(found.cost_H)
    assert np.all(np.diff(found.cost_H) > 0)
    assert np.all(slope > 0)
    assert np.all(np.diff(slope) <= 1e-9)


@given(points, st.floats(0.01, 10), st.floats(0, 1))
@settings(deadline=None)
def test_another_point_never_lowers_aiq(
    pairs: list[tuple[float, float]], cost: float, quality: float
) -> None:
    cost_V, quality_V = np.array([c for c, _ in pairs]), np.array([q for _, q in pairs])
    before = metrics.aiq(hull(cost_V, quality_V), 0.01, 10)
    after = metrics.aiq(hull(np.append(cost_V, cost), np.append(quality_V, quality)), 0.01, 10)
    assert after >= before - 1e-9


@given(
    st.lists(
        st.tuples(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), st.floats(0, 1), st.floats(0, 1)),
        min_size=2,
        max_size=30,
    )
)
@settings(max_examples=60)
def test_a_resample_of_every_query_once_has_the_area_of_the_curve_itself(
    rows: list[tuple[float, float, float]],
) -> None:
    margin, weak, strong = np.array(rows).T
    curve = metrics.pgr_curve(margin, weak, strong)
    even = metrics.apgr_samples(margin, weak, strong, np.full((1, len(rows)), 1 / len(rows)))
    twice = metrics.apgr_samples(margin, weak, strong, np.full((1, len(rows)), 3.0))
    if abs(np.sum(strong - weak)) < 1e-9:
        return
    assert even[0] == pytest.approx(metrics.apgr(curve))
    assert twice[0] == pytest.approx(metrics.apgr(curve))


def test_a_resample_counts_a_query_drawn_twice_twice() -> None:
    margin, weak, strong = array(3, 2, 1), array(0, 0, 0), array(1, 0, 1)
    doubled = metrics.pgr_curve(array(3, 3, 1), array(0, 0, 0), array(1, 1, 1))
    got = metrics.apgr_samples(margin, weak, strong, np.array([[2.0, 0.0, 1.0]]))
    assert got[0] == pytest.approx(metrics.apgr(doubled))
