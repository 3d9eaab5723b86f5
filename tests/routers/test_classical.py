"""Golden facts and small worlds for the routers that need no torch; what all routers promise is in test_laws."""

import numpy as np
import pytest
from tests.routers.worlds import coordinates, drawn, halves, place, predicted, table_at

from thinkroute.errors import ConfigError
from thinkroute.evaluation.frontier import choose_many
from thinkroute.routers import OutcomeTable, TableRouter, fit_router
from thinkroute.routers.hybrid import HybridSettings, win_labels
from thinkroute.routers.logistic import fit_logistic
from thinkroute.routers.relative import pair_slope, place_scores, placed
from thinkroute.routers.score_calibration import sigmoid
from thinkroute.routers.table import FloatArray
from thinkroute.signals.base import Scalar
from thinkroute.types import Query

RNG = np.random.default_rng
QUICK: dict[str, dict[str, Scalar]] = {
    "kmeans": {"clusters": 12},
    "logistic": {"penalty": 30.0},
    "mlp": {"hidden": 24, "members": 2},
    "matrix_factorisation": {"dimension": 8},
    "hybrid": {"penalty": 30.0},
    "carrot": {},
    "ensemble": {"members": "kmeans,ridge"},
}


def fit(name: str, table: OutcomeTable, **parameters: Scalar) -> TableRouter:
    return fit_router(name, table, parameters={**QUICK.get(name, {}), **parameters}, encoder=coordinates(2))


@pytest.fixture(scope="module")
def known_halves() -> OutcomeTable:
    rng = RNG(0)
    points = rng.uniform(0, 1, (400, 2))
    return table_at(points, drawn(halves(points), rng))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        *((name, {}) for name in QUICK),
        ("mlp", {"loss": "ranking"}),
        ("matrix_factorisation", {"form": "pairwise"}),
        ("matrix_factorisation", {"form": "pairwise", "labels": "paper"}),
        ("hybrid", {"labels": "hard"}),
        ("hybrid", {"labels": "shifted"}),
    ],
)
def test_every_method_learns_which_arm_knows_which_region(
    known_halves: OutcomeTable, name: str, parameters: dict[str, Scalar]
) -> None:
    router = fit(name, known_halves, **parameters)
    points = np.array([[x, y] for x in (0.1, 0.2, 0.8, 0.9) for y in (0.3, 0.7)])
    mean_QA, std_QA = predicted(router, points)
    assert (mean_QA[:4, 0] > mean_QA[:4, 1]).all()
    assert (mean_QA[4:, 1] > mean_QA[4:, 0]).all()
    assert (std_QA > 0).all()


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("kmeans", "clusters", 0),
        ("logistic", "penalty", -1.0),
        ("mlp", "loss", "guess"),
        ("matrix_factorisation", "form", "triple"),
        ("hybrid", "labels", "none"),
        ("carrot", "cost_neighbours", -1),
        ("task_lookup", "prior_weight", -1.0),
        ("ensemble", "members", "kmeans,ensemble"),
    ],
)
def test_impossible_settings_are_refused_by_name(
    known_halves: OutcomeTable, name: str, setting: str, value: Scalar
) -> None:
    with pytest.raises(ConfigError, match=setting):
        fit(name, known_halves, **{setting: value})


def test_a_known_task_gets_its_shrunk_average_and_an_unknown_one_the_overall_one() -> None:
    quality_QA = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    table = table_at(np.zeros((4, 2)), quality_QA, ["x", "x", "y", "y"])
    router = fit("task_lookup", table, prior_weight=2.0)
    of_x = router.predict(Query("0 0", task="x"), ("a", "b"))
    assert of_x["a"].quality.mean == pytest.approx((2 * 1.0 + 2 * 0.5) / 4)
    assert router.predict(Query("0 0", task="z"), ("a",))["a"].quality.mean == pytest.approx(0.5)
    assert router.predict(Query("0 0"), ("a",))["a"].quality.mean == pytest.approx(0.5)


def test_one_cluster_is_the_average(known_halves: OutcomeTable) -> None:
    mean_QA, _ = predicted(fit("kmeans", known_halves, clusters=1), np.array([[0.1, 0.1], [0.9, 0.9]]))
    np.testing.assert_allclose(mean_QA, np.tile(known_halves.quality_QA.mean(axis=0), (2, 1)), atol=1e-9)


def test_a_query_mixes_its_nearest_clusters_by_the_softmax_of_distance() -> None:
    points = np.repeat([[0.0, 0.0], [1.0, 0.0], [9.0, 0.0]], 4, axis=0)
    table = table_at(points, np.repeat([[1.0], [0.0], [0.5]], 4, axis=0))
    router = fit("kmeans", table, clusters=3, nearest=2, sharpness=2.0, prior_weight=0.0)
    weight = np.exp(-2.0 * 0.25) / (np.exp(-2.0 * 0.25) + np.exp(-2.0 * 0.75))
    assert router.predict(Query("0.25 0"), ("a",))["a"].quality.mean == pytest.approx(weight, abs=1e-6)


def test_logistic_weights_make_the_gradient_vanish() -> None:
    rng = RNG(1)
    vector_ND, label_NT = rng.normal(size=(200, 3)), rng.uniform(size=(200, 2))
    label_NT[:50, 1] = np.nan
    found = fit_logistic(vector_ND, label_NT, 10.0)
    error_NT = np.nan_to_num(label_NT - sigmoid(vector_ND @ found["weight_DA"] + found["intercept_A"]))
    np.testing.assert_allclose(vector_ND.T @ error_NT, 10.0 * found["weight_DA"], atol=1e-5)
    np.testing.assert_allclose(error_NT.sum(axis=0), 0.1 * found["intercept_A"], atol=1e-5)


@pytest.mark.parametrize("weighted", [True, False])
def test_the_pairwise_slope_is_the_gradient_of_the_pairwise_loss(weighted: bool) -> None:
    rng = RNG(2)
    quality_NA = np.round(rng.uniform(size=(5, 4)), 1).astype(np.float32)
    seen_NA = np.ones_like(quality_NA)
    seen_NA[0, 1] = 0.0

    def loss(score_NA: FloatArray) -> float:
        total = 0.0
        for row in range(5):
            for a in range(4):
                for b in range(4):
                    gap = float(quality_NA[row, a] - quality_NA[row, b])
                    if gap > 0 and seen_NA[row, a] and seen_NA[row, b]:
                        margin = score_NA[row, a] - score_NA[row, b]
                        total += (gap if weighted else 1.0) * float(np.logaddexp(0.0, -margin))
        return total / 3

    score_NA = rng.normal(size=(5, 4))
    slope_NA = pair_slope(score_NA, quality_NA, seen_NA, weighted=weighted)
    for row, arm in ((0, 0), (0, 1), (2, 3), (4, 2)):
        step = np.zeros((5, 4))
        step[row, arm] = 1e-5
        numeric = (loss(score_NA + step) - loss(score_NA - step)) / 2e-5
        assert slope_NA[row, arm] == pytest.approx(numeric, abs=1e-4)


def test_scores_that_only_order_arms_are_placed_on_the_scale_of_quality() -> None:
    rng = RNG(3)
    vector_ND = rng.normal(size=(300, 2))
    relative_NA = rng.normal(size=(300, 3))
    quality_NA = 0.5 + np.array([0.1, 0.0, -0.1]) + 0.05 * (relative_NA - relative_NA.mean(1, keepdims=True))
    arrays = place_scores(vector_ND, quality_NA, 7.0 * relative_NA, 10.0)
    assert float(arrays["factor"]) == pytest.approx(0.05 / 7.0, rel=1e-6)
    np.testing.assert_allclose(placed(arrays, vector_ND, 7.0 * relative_NA), quality_NA, atol=0.01)


def test_hybrid_labels_are_the_chance_that_the_arm_is_at_least_as_good() -> None:
    quality_NA = np.array([[1.0, 0.0, np.nan], [0.5, 0.5, 1.0]])
    strongest_N = quality_NA[:, 0]
    soft = win_labels(quality_NA, strongest_N, HybridSettings())
    np.testing.assert_allclose(soft, [[1.0, 0.0, np.nan], [0.75, 0.75, 1.0]])
    hard = win_labels(quality_NA, strongest_N, HybridSettings(labels="hard"))
    np.testing.assert_allclose(hard, [[1.0, 0.0, np.nan], [1.0, 1.0, 1.0]])


def test_shifted_labels_spread_where_hard_ones_would_all_be_the_same() -> None:
    strongest_N = np.ones(50)
    quality_NA = np.stack([strongest_N, np.linspace(0.1, 0.7, 50)], axis=1)
    shifted = win_labels(quality_NA, strongest_N, HybridSettings(labels="shifted"))[:, 1]
    assert win_labels(quality_NA, strongest_N, HybridSettings(labels="hard"))[:, 1].max() == 0.0
    assert shifted.max() - shifted.min() > 0.5
    assert (np.diff(shifted) > 0).all()


def test_the_policy_chooses_by_carrots_plug_in_rule() -> None:
    """max (1 − μ)·quality − μ·cost is max value·quality − cost with value = (1 − μ)/μ."""
    rng = RNG(4)
    quality_QA, cost_QA = rng.uniform(size=(200, 4)), rng.uniform(size=(200, 4))
    allowed_QA = np.ones((200, 4), dtype=np.bool_)
    for mu in (0.1, 0.5, 0.9):
        plug_in_Q = ((1 - mu) * quality_QA - mu * cost_QA).argmax(axis=1)
        np.testing.assert_array_equal(plug_in_Q, choose_many(quality_QA, cost_QA, (1 - mu) / mu, allowed_QA))


def test_carrot_estimates_cost_in_a_neighbourhood_of_its_own() -> None:
    rng = RNG(5)
    points = rng.uniform(0, 1, (300, 2))
    tokens_QA = 100 + 900 * points[:, :1] + np.zeros((1, 2))
    table = table_at(points, drawn(np.full((300, 2), 0.5), rng), answer_tokens=tokens_QA)
    router = fit("carrot", table)
    settings = router.state().parameters
    assert settings["neighbours"] != settings["cost_neighbours"]
    found = router.predict_batch([Query(place(np.array([0.6, 0.5])))], router.arms)
    assert found.moments["answer_tokens"].mean_QA[0, 0] == pytest.approx(640, abs=60)


def test_an_ensemble_is_the_average_of_its_members_and_unsure_where_they_disagree(
    known_halves: OutcomeTable,
) -> None:
    points = np.array([[0.45, 0.5], [0.1, 0.1]])
    parts = [
        predicted(fit_router(name, known_halves, encoder=coordinates(2)), points)
        for name in ("kmeans", "ridge")
    ]
    mean_QA, std_QA = predicted(fit("ensemble", known_halves), points)
    means, stds = np.stack([part[0] for part in parts]), np.stack([part[1] for part in parts])
    np.testing.assert_allclose(mean_QA, means.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(std_QA, np.sqrt((stds**2).mean(axis=0) + means.var(axis=0)), atol=1e-9)
