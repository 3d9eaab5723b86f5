"""Calibration arithmetic against numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from thinkroute.signals.calibration import (
    auroc,
    expected_calibration_error,
    platt,
    ranks,
    reliability,
    sigmoid,
    spearman,
)


def test_auroc_is_the_share_of_pairs_in_order_and_ties_count_half() -> None:
    score = np.array([0.1, 0.4, 0.4, 0.8])
    positive = np.array([False, False, True, True])
    assert auroc(score, positive) == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert np.isnan(auroc(score, np.ones(4, dtype=np.bool_)))


def test_ranks_share_their_mean_among_ties() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]


def test_spearman_sees_any_rising_law() -> None:
    values = np.linspace(-2, 2, 50)
    assert spearman(values, np.exp(values)) == pytest.approx(1.0)
    assert spearman(values, -(values**3)) == pytest.approx(-1.0)


def test_platt_finds_the_slope_and_shift_that_made_the_shares() -> None:
    logit = np.linspace(-3, 3, 400)
    slope, shift = platt(logit, sigmoid(0.5 * logit - 0.7))
    assert (slope, shift) == (pytest.approx(0.5, abs=0.01), pytest.approx(-0.7, abs=0.01))


def test_platt_stays_finite_on_separable_rows() -> None:
    logit = np.array([-1.0, -0.5, 0.5, 1.0])
    slope, shift = platt(logit, (logit > 0).astype(np.float64))
    assert np.isfinite([slope, shift]).all()


def test_platt_weighs_rows() -> None:
    logit = np.zeros(4)
    target = np.array([0.0, 0.0, 0.0, 1.0])
    _, even = platt(logit, target)
    _, heavy = platt(logit, target, np.array([1.0, 1.0, 1.0, 3.0]))
    assert sigmoid(np.array([even]))[0] == pytest.approx(0.25, abs=0.01)
    assert sigmoid(np.array([heavy]))[0] == pytest.approx(0.5, abs=0.01)


def test_calibration_error_is_the_mean_distance_of_bins() -> None:
    probability = np.repeat([0.2, 0.8], 10)
    target = np.concatenate([np.zeros(10), np.ones(10)])
    assert expected_calibration_error(probability, target, bins=2) == pytest.approx(0.2)


@given(arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 1)), st.integers(1, 12))
def test_bins_hold_every_row_once(probability: NDArray[np.float64], bins: int) -> None:
    found = reliability(probability, probability, bins)
    assert sum(part.weight for part in found) == pytest.approx(1.0)
    assert expected_calibration_error(probability, probability, bins) == pytest.approx(0.0)
    assert (np.diff([part.predicted for part in found]) >= -1e-12).all()
