"""Telling noise from error: the numbers behind honest deviations, against worlds where both are known."""

import numpy as np
import pytest
from tests.routers.worlds import Chances, drawn, halves, smooth

from thinkroute.routers.honesty import honest_scales, noise_variance
from thinkroute.routers.neighbours import neighbours_of, tuning_rows


@pytest.mark.parametrize("world", [smooth, halves])
def test_noise_is_told_from_places(world: Chances) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 1, (1500, 2))
    chance_QA = world(points)
    near = neighbours_of(points.astype(np.float32), tuning_rows(1500), 20)
    noise = noise_variance(near, drawn(chance_QA, rng))
    assert noise == pytest.approx((chance_QA * (1 - chance_QA)).mean(), abs=0.012)


def scale_when(error: float, stated: float, rows: int = 4000) -> float:
    """The factor for predictions that miss a smooth truth by `error` and state `stated`."""
    rng = np.random.default_rng(1)
    points = rng.uniform(0, 1, (rows, 2))
    truth_NA = smooth(points)
    cells_NA = truth_NA + rng.normal(0, 0.2, truth_NA.shape)
    residual_NA = cells_NA - (truth_NA + error * rng.choice([-1.0, 1.0], truth_NA.shape))
    variance = np.full((rows, 1, 3), stated**2)
    return float(
        honest_scales(points.astype(np.float32), cells_NA[:, None], residual_NA[:, None], variance)[0]
    )


def test_deviations_that_are_right_are_left_alone() -> None:
    assert scale_when(error=0.1, stated=0.1) == pytest.approx(1.0, abs=0.05)


def test_deviations_that_are_too_small_are_raised_to_what_was_missed() -> None:
    assert scale_when(error=0.1, stated=0.02) == pytest.approx(5.0, rel=0.1)


def test_deviations_that_are_surely_too_large_are_lowered() -> None:
    assert scale_when(error=0.0, stated=0.3) < 0.5


def test_few_queries_prove_nothing_against_a_stated_deviation() -> None:
    assert scale_when(error=0.0, stated=0.05, rows=20) == 1.0
