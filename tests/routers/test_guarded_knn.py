"""The default router knows what it does not know: it leaves the best single arm on evidence, and elsewhere never."""

import numpy as np
import pytest
from tests.routers.worlds import coordinates, drawn, halves, place, predicted, smooth, table_at

from thinkroute.errors import ConfigError
from thinkroute.routers import OutcomeTable, TableRouter, fit_router
from thinkroute.routers.table import FloatArray
from thinkroute.types import Query

RNG = np.random.default_rng


def fit(table: OutcomeTable, dimension: int = 2, **parameters: float) -> TableRouter:
    return fit_router("guarded_knn", table, parameters=parameters, encoder=coordinates(dimension))


@pytest.fixture(scope="module")
def known_halves() -> OutcomeTable:
    """Two arms that know one half of the plane each; the right half is asked about more often."""
    rng = RNG(0)
    points = rng.uniform(0, 1, (500, 2)) * [0.9, 1.0] + [0.1, 0.0]
    return table_at(points, drawn(halves(points), rng))


def best(router: TableRouter, points: FloatArray) -> list[str]:
    return [router.arms[arm] for arm in predicted(router, points)[0].argmax(axis=1)]


def test_it_learns_which_arm_knows_which_region(known_halves: OutcomeTable) -> None:
    points = np.array([[x, 0.5] for x in (0.15, 0.25, 0.35, 0.65, 0.75, 0.85)])
    assert best(fit(known_halves), points) == ["a", "a", "a", "b", "b", "b"]


def test_far_from_every_training_query_it_is_the_best_single_arm(known_halves: OutcomeTable) -> None:
    router = fit(known_halves)
    far = np.array([[30.0, -40.0], [0.2, 90.0], [-25.0, 0.5]])
    assert best(router, far) == ["b", "b", "b"]
    mean_QA, std_QA = predicted(router, far)
    np.testing.assert_allclose(
        mean_QA, np.broadcast_to(router.statistics.mean_MA[0], mean_QA.shape), atol=1e-6
    )
    near_QA = predicted(router, np.array([[0.3, 0.5]]))[1]
    assert (std_QA > near_QA).all()


def test_a_deaf_guard_leaves_of_a_difference_what_ranks_queries_and_no_more(
    known_halves: OutcomeTable,
) -> None:
    """So that at every price the policy does what it would do with averages alone, and queries keep their order."""
    points = RNG(1).uniform(0, 1, (50, 2))
    deaf_QA, free_QA = (predicted(fit(known_halves, z=z), points)[0] for z in (1e6, 0.0))
    average_A = fit(known_halves).statistics.mean_MA[0]
    inside = [((mean_QA > 0.0) & (mean_QA < 1.0)).all(axis=1) for mean_QA in (deaf_QA, free_QA)]
    unclipped = inside[0] & inside[1]
    assert unclipped.sum() > 20
    left, whole = (
        (mean_QA[:, 0] - mean_QA[:, 1])[unclipped] - (average_A[0] - average_A[1])
        for mean_QA in (deaf_QA, free_QA)
    )
    np.testing.assert_allclose(left, 0.02 * whole, atol=1e-9)
    assert np.ptp(left) > 0.0
    assert np.abs(left).max() < 0.02


def test_a_larger_z_leaves_the_best_single_arm_more_rarely(known_halves: OutcomeTable) -> None:
    points = RNG(2).uniform(0, 1, (200, 2))
    left = [sum(arm == "a" for arm in best(fit(known_halves, z=z), points)) for z in (0.0, 0.5, 2.0, 5.0)]
    assert left == sorted(left, reverse=True)
    assert left[0] > 50
    assert left[-1] < left[0]


def tasks_world(rng: np.random.Generator, tasks: int, rows: int) -> tuple[FloatArray, FloatArray, list[str]]:
    """Tasks lie apart; on each, two of three arms are better or worse than the steady one by luck of the task."""
    centre = rng.normal(size=(tasks, 12))
    chance = np.stack(
        [np.full(tasks, 0.6), *(np.clip(rng.normal(0.5, 0.22, tasks), 0.05, 0.95) for _ in range(2))], axis=1
    )
    which = rng.integers(tasks, size=rows)
    points = centre[which] * 0.8 + rng.normal(size=(rows, 12)) * 0.35
    return points, chance[which], [f"task{task}" for task in which]


@pytest.mark.parametrize("labelled", [True, False])
def test_one_fitted_setting_gains_on_known_tasks_and_loses_nothing_on_unseen_ones(labelled: bool) -> None:
    """True chances instead of outcomes judge the choice, so what is measured is regret and not luck."""
    gain: dict[str, list[float]] = {"known": [], "unseen": []}
    for seed in range(4):
        rng = RNG(seed)
        points, chance_QA, tasks = tasks_world(rng, 12, 1300)
        unseen = np.isin(tasks, ["task0", "task1", "task2"])
        learned = ~unseen & (np.arange(1300) < 1000)
        labels = [task for task, own in zip(tasks, learned, strict=True) if own] if labelled else []
        router = fit(table_at(points[learned], drawn(chance_QA[learned], rng), labels), dimension=12)
        single = int(router.statistics.mean_MA[0].argmax())
        for name, rows in (("known", ~unseen & ~learned), ("unseen", unseen)):
            choice = predicted(router, points[rows])[0].argmax(axis=1)
            truth_QA = chance_QA[rows]
            gain[name].append(float((truth_QA[np.arange(len(choice)), choice] - truth_QA[:, single]).mean()))
    assert np.mean(gain["known"]) > 0.04
    assert np.mean(gain["unseen"]) > -0.01


@pytest.mark.parametrize("name", ["knn", "guarded_knn", "ridge"])
def test_stated_deviations_cover_the_truth_at_about_the_nominal_rate(name: str) -> None:
    """In a world without cliffs: 68 % of truths within one deviation, 95 % within two; never much less."""
    off: list[FloatArray] = []
    for seed in range(3):
        rng = RNG(seed)
        points, asked = rng.uniform(0, 1, (600, 2)), rng.uniform(0, 1, (200, 2))
        router = fit_router(name, table_at(points, drawn(smooth(points), rng)), encoder=coordinates(2))
        mean_QA, std_QA = predicted(router, asked)
        off.append(np.abs(mean_QA - smooth(asked)) / std_QA)
    within = np.concatenate(off).ravel()
    assert 0.6 < (within < 1).mean() < 0.88
    assert (within < 2).mean() > 0.9


def test_two_arms_never_measured_on_the_same_query_can_be_compared() -> None:
    rng = RNG(4)
    points = rng.uniform(0, 1, (400, 2))
    quality_QA = drawn(halves(points), rng)
    quality_QA[np.arange(400), rng.integers(2, size=400)] = np.nan
    asked = np.array([[0.15, 0.5], [0.85, 0.5]])
    assert best(fit(table_at(points, quality_QA)), asked) == ["a", "b"]


def test_tokens_and_dollars_follow_the_query_and_stay_in_the_range_seen() -> None:
    rng = RNG(5)
    points = rng.uniform(0, 1, (300, 2))
    tokens_QA = np.stack([100 + 400 * points[:, 0], np.full(300, 50.0)], axis=1)
    router = fit(table_at(points, drawn(halves(points), rng), answer_tokens=tokens_QA))
    queries = [Query(place(np.array(point))) for point in ([0.1, 0.5], [0.9, 0.5])]
    low, high = router.predict_batch(queries, router.arms).moments["answer_tokens"].mean_QA
    assert low[0] < 250.0
    assert high[0] > 350.0
    assert low[1] == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("setting", "value"), [("z", -1.0), ("unseen_share", 1.5), ("landmarks", 0), ("penalty", -2.0)]
)
def test_impossible_settings_are_refused(known_halves: OutcomeTable, setting: str, value: float) -> None:
    with pytest.raises(ConfigError, match=setting):
        fit_router("guarded_knn", known_halves, parameters={setting: value}, encoder=coordinates(2))
