"""Strangers are told from friends, and leaving out is exact."""

import numpy as np
import pytest
from numpy.typing import NDArray

from thinkroute.routers import landmarks, territory
from thinkroute.routers.neighbours import KnnSettings, Near, neighbours_of
from thinkroute.routers.table import FloatArray
from thinkroute.signals.base import Matrix

KIND_N = np.repeat(np.arange(8), 40)
SETTINGS = KnnSettings(10, 0.5, 2.0)


@pytest.fixture(scope="module")
def keys_ND() -> Matrix:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(8, 6))[KIND_N] + 0.2 * rng.normal(size=(320, 6))).astype(np.float32)


def near_of(keys_ND: Matrix, point: Matrix) -> Near:
    distance_N = ((keys_ND - point) ** 2).sum(axis=1).astype(np.float64)
    index_k = np.argsort(distance_N)[:10]
    return Near(index_k, distance_N[index_k], np.exp(-distance_N[index_k] / SETTINGS.bandwidth))


def judge(keys_ND: Matrix, share: float = 0.3) -> territory.Territory:
    found = territory.views(keys_ND, SETTINGS, KIND_N)
    return territory.fit(keys_ND, found, SETTINGS.bandwidth, share, territory.Worth(0.2, np.ones(2)))


def test_a_query_among_its_like_is_a_friend_and_one_far_away_a_stranger(keys_ND: Matrix) -> None:
    known = judge(keys_ND)
    assert known.unseen(near_of(keys_ND, keys_ND[:40].mean(axis=0))) < 0.05
    assert known.unseen(near_of(keys_ND, keys_ND[0] + 5.0)) > 0.9


def test_the_share_of_strangers_expected_moves_the_odds(keys_ND: Matrix) -> None:
    between = near_of(keys_ND, 0.8 * keys_ND[0] + 0.2 * keys_ND[100])
    low, high = (judge(keys_ND, share).unseen(between) for share in (0.05, 0.6))
    assert low / (1 - low) * (0.95 / 0.05) == pytest.approx(high / (1 - high) * (0.4 / 0.6), rel=1e-6)


def test_with_too_few_queries_everyone_is_as_strange_as_expected_and_nothing_is_believed() -> None:
    keys_ND = np.eye(5, dtype=np.float32)
    found = territory.views(keys_ND, KnnSettings(3, 1.0, 1.0), np.arange(5))
    known = territory.fit(keys_ND, found, 1.0, 0.3, territory.Worth(1.0, np.ones(2)))
    assert known.unseen(near_of(keys_ND, keys_ND[0])) == pytest.approx(0.3)
    assert known.trust == 0.0


def test_the_worth_of_predictions_is_the_share_that_came_true() -> None:
    rng = np.random.default_rng(1)
    told_RA = rng.normal(size=(4000, 3))
    told_RA[:, 0] = 0.0
    truth_RA = 0.4 * told_RA + rng.normal(0, 0.3, (4000, 3))
    truth_RA[:, 0] = 0.0
    found = territory.worth(truth_RA, truth_RA, told_RA, reference=0)
    assert found.trust == pytest.approx(0.4, abs=0.02)
    np.testing.assert_allclose(found.excess_A, [0.0, 0.45, 0.45], atol=0.05)
    assert territory.worth(-truth_RA, truth_RA, told_RA, reference=0).trust == 0.0


def refitted(
    fitted: landmarks.Landmarks, vector: Matrix, residual: FloatArray, kept: NDArray[np.bool_]
) -> FloatArray:
    """Residuals of the rows not kept, from a solution on the kept ones alone."""
    base = landmarks.basis(vector, fitted.landmark_KD, fitted.bandwidth)
    part = base.feature_NK[kept]
    gram: FloatArray = part.T @ part + np.eye(part.shape[1]) / fitted.prior_variance
    weight = np.asarray(np.linalg.solve(gram, part.T @ residual[kept]), dtype=np.float64)
    return residual[~kept] - base.feature_NK[~kept] @ weight


def test_what_is_left_out_was_really_left_out(keys_ND: Matrix) -> None:
    rng = np.random.default_rng(2)
    residual_NC = rng.normal(size=(320, 2))
    fitted = landmarks.fit(keys_ND, residual_NC, slice(0, 2), KIND_N, count=20, penalty=2.0)
    alone = np.arange(320) != 7
    np.testing.assert_allclose(
        fitted.left_one_NC[7],
        refitted(fitted.landmarks, keys_ND, residual_NC, alone)[0],
        rtol=1e-3,
        atol=1e-4,
    )
    others = KIND_N != 3
    np.testing.assert_allclose(
        fitted.left_kind_NA[~others],
        refitted(fitted.landmarks, keys_ND, residual_NC, others),
        rtol=1e-3,
        atol=1e-4,
    )


def test_neighbours_of_strangers_are_of_other_kinds(keys_ND: Matrix) -> None:
    far = neighbours_of(keys_ND, np.arange(320), 10, KIND_N)
    assert (KIND_N[far.index_Rk] != KIND_N[:, None]).all()
