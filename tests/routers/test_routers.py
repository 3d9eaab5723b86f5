"""What each router learns, against numbers worked out by hand and worlds with a known answer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkroute.errors import ConfigError
from thinkroute.routers import OutcomeTable, TableRouter, fit_router
from thinkroute.routers.neighbours import smallest
from thinkroute.routers.table import FloatArray
from thinkroute.signals.base import Encoder, EncoderState, Matrix, Vector
from thinkroute.types import Query


class Coordinates:
    """An encoder whose vector is the numbers written in the text."""

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension

    @property
    def dimension(self) -> int:
        return self._dimension

    def encode(self, text: str) -> Vector:
        return np.array([float(word) for word in text.split()], dtype=np.float32)

    def encode_batch(self, texts: list[str] | tuple[str, ...]) -> Matrix:
        return np.stack([self.encode(text) for text in texts])

    def state(self) -> EncoderState:
        return EncoderState("coordinates", {})


def coordinates(dimension: int) -> Encoder:
    return Coordinates(dimension)  # pyright: ignore[reportReturnType]


def world(points: list[str], quality_QA: FloatArray, **extra: FloatArray) -> OutcomeTable:
    return OutcomeTable(
        query_ids=tuple(map(str, range(len(points)))),
        texts=tuple(points),
        arms=tuple("abcdef"[: quality_QA.shape[1]]),
        measured={"quality": quality_QA, **extra},  # pyright: ignore[reportArgumentType]
    )


def quality(router: TableRouter, text: str) -> dict[str, float]:
    return {arm: p.quality.mean for arm, p in router.predict(Query(text), router.arms).items()}


def test_constant_predicts_the_mean_and_its_standard_error() -> None:
    table = world(["0", "1", "2", "3"], np.array([[1.0, 0.5], [0.0, 0.5], [1.0, np.nan], [1.0, 0.5]]))
    predictions = fit_router("constant", table).predict(Query("9"), table.arms)
    assert predictions["a"].quality.mean == pytest.approx(0.75)
    assert predictions["a"].quality.std == pytest.approx(np.sqrt(0.75 * 0.25 / 4))
    assert predictions["b"].quality.mean == pytest.approx(0.5)
    assert predictions["b"].quality.std == 0.0


def test_best_single_recommends_one_arm_and_breaks_ties_by_cost() -> None:
    costs = np.array([[3.0, 1.0, 2.0]] * 2)
    table = world(["0", "1"], np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]), cost_usd=costs)
    got = quality(fit_router("best_single", table), "5")
    assert got == {"a": 0.0, "b": 0.5, "c": 0.0}


def test_random_mix_is_right_on_average_and_the_same_for_the_same_text() -> None:
    table = world([str(i) for i in range(200)], np.tile([[1.0, 0.0], [0.0, 1.0]], (100, 1)) * 0.2 + 0.4)
    router = fit_router("random_mix", table)
    drawn = [quality(router, f"question {i}")["a"] for i in range(600)]
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.02)
    assert np.std(drawn) == pytest.approx(0.1, abs=0.01)
    assert quality(router, "again") == quality(router, "again")


def test_knn_follows_its_formula() -> None:
    """Neighbours at squared distance 0 and 1, h = 1, κ = 1, arm mean 0.5: (1·1 + e⁻¹·0 + 1·0.5) / (1 + e⁻¹ + 1)."""
    table = world(["0 0", "0 1", "9 9"], np.array([[1.0], [0.0], [0.5]]))
    parameters = {"neighbours": 2, "bandwidth": 1.0, "prior_weight": 1.0}
    router = fit_router("knn", table, parameters=parameters, encoder=coordinates(2))
    got = router.predict(Query("0 0"), ("a",))["a"].quality
    near = np.exp(-1.0)
    total = 2 + near
    mean = 1.5 / total
    spread = np.array([1.0, 0.0, 0.5]).var()
    local = ((1 - mean) ** 2 + near * mean**2 + spread + 1 * (mean - 0.5) ** 2 - (mean - 0.5) ** 2) / total
    assert got.mean == pytest.approx(mean, abs=1e-6)
    assert got.std == pytest.approx(np.sqrt((1 + near**2) * local + spread) / total, rel=1e-4)


@given(st.lists(st.integers(-40, 40), min_size=1, max_size=400), st.integers(1, 60))
@settings(deadline=None)
def test_the_nearest_are_exactly_the_smallest_distances(numbers: list[int], k: int) -> None:
    far = np.array(numbers, dtype=np.float32)
    found = smallest(far, k)
    assert len(set(found.tolist())) == min(k, len(numbers))
    assert sorted(far[found].tolist()) == sorted(numbers)[:k]


def test_knn_far_from_everything_says_the_mean_and_the_full_spread() -> None:
    table = world(["0 0", "0 1", "1 0", "1 1"], np.array([[1.0], [0.0], [1.0], [0.0]]))
    parameters = {"neighbours": 4, "bandwidth": 1.0, "prior_weight": 1.0}
    router = fit_router("knn", table, parameters=parameters, encoder=coordinates(2))
    far = router.predict(Query("80 80"), ("a",))["a"].quality
    near = router.predict(Query("0 0"), ("a",))["a"].quality
    assert far.mean == pytest.approx(0.5)
    assert far.std == pytest.approx(0.5)
    assert near.std < far.std


def test_knn_skips_neighbours_whose_cell_is_missing() -> None:
    table = world(["0", "0", "5"], np.array([[np.nan, 0.0], [1.0, 0.0], [1.0, 1.0]]))
    parameters = {"neighbours": 2, "bandwidth": 1.0, "prior_weight": 0.001}
    got = quality(fit_router("knn", table, parameters=parameters, encoder=coordinates(1)), "0")
    assert got["a"] == pytest.approx(1.0)
    assert got["b"] == pytest.approx(0.0, abs=0.01)


def test_knn_learns_which_arm_knows_which_region() -> None:
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 1, (400, 2))
    left = (places[:, 0] < 0.5).astype(np.float64)
    truth = np.stack([0.9 * left + 0.1 * (1 - left), 0.1 * left + 0.9 * (1 - left)], axis=1)
    table = world([f"{x} {y}" for x, y in places], (rng.uniform(size=truth.shape) < truth).astype(np.float64))
    router = fit_router("knn", table, encoder=coordinates(2))
    right = [quality(router, f"{x} 0.5") for x in (0.1, 0.2, 0.3, 0.7, 0.8, 0.9)]
    assert [max(q, key=lambda arm: q[arm]) for q in right] == ["a", "a", "a", "b", "b", "b"]


def test_ridge_matches_the_normal_equations() -> None:
    rng = np.random.default_rng(1)
    points = rng.normal(size=(30, 3)).astype(np.float32).astype(np.float64)
    target = np.clip(0.5 + points @ np.array([0.1, -0.05, 0.02]) + rng.normal(0, 0.05, 30), 0, 1)
    table = world([" ".join(map(str, p)) for p in points], target[:, None])
    router = fit_router("ridge", table, parameters={"penalty": 2.0}, encoder=coordinates(3))
    centred = points - points.mean(axis=0)
    gram: FloatArray = centred.T @ centred + 2.0 * np.eye(3)
    inverse = np.asarray(np.linalg.solve(gram, np.eye(3)), dtype=np.float64)
    weights = inverse @ centred.T @ (target - target.mean())
    asked = np.array([0.3, -0.2, 0.1])
    z = asked - points.mean(axis=0)
    leverage = ((centred @ inverse) * centred).sum(axis=1)
    residual = (target - target.mean() - centred @ weights) / (1 - leverage - 1 / 30)
    got = router.predict(Query("0.3 -0.2 0.1"), ("a",))["a"].quality
    assert got.mean == pytest.approx(target.mean() + z @ weights, abs=1e-5)
    assert got.std == pytest.approx(np.sqrt((residual**2).mean() * (1 / 30 + z @ inverse @ z)), rel=1e-4)


def test_ridge_does_not_extrapolate_counts_beyond_what_it_saw() -> None:
    points = [str(i) for i in range(20)]
    tokens = np.arange(20.0)[:, None] * 10
    table = world(points, np.full((20, 1), 0.5), answer_tokens=tokens)
    router = fit_router("ridge", table, parameters={"penalty": 0.3}, encoder=coordinates(1))
    got = router.predict(Query("1000"), ("a",))["a"].answer_tokens
    assert got is not None
    assert got.mean == pytest.approx(190.0)


def test_ridge_gives_less_measured_arms_more_uncertainty() -> None:
    rng = np.random.default_rng(2)
    quality_QA = rng.uniform(size=(60, 2))
    quality_QA[8:, 1] = np.nan
    table = world([f"{x}" for x in rng.normal(size=60)], quality_QA)
    got = fit_router("ridge", table, encoder=coordinates(1)).predict(Query("0"), ("a", "b"))
    assert got["b"].quality.std > 1.5 * got["a"].quality.std


@pytest.mark.parametrize("name", ["knn", "ridge"])
def test_more_steps_mean_lower_predicted_quality_in_a_tiny_language(name: str) -> None:
    """With one vocabulary throughout, only the number of steps tells how hard a question is."""
    rng = np.random.default_rng(3)

    def question(steps: int) -> str:
        return "start " + " ".join(f"{rng.choice(['add', 'take'])} {rng.integers(10)}" for _ in range(steps))

    steps = rng.integers(1, 9, size=400)
    chance = np.stack([1.1 - 0.12 * steps, np.full(400, 0.9)], axis=1)
    outcomes = (rng.uniform(size=chance.shape) < chance).astype(np.float64)
    router = fit_router(name, world([question(int(n)) for n in steps], outcomes))
    easy, hard = ([quality(router, question(n)) for _ in range(20)] for n in (1, 8))
    assert np.mean([q["a"] for q in easy]) > 0.8
    assert np.mean([q["a"] for q in hard]) < 0.4
    assert abs(np.mean([q["b"] for q in easy]) - np.mean([q["b"] for q in hard])) < 0.15


@pytest.mark.parametrize("name", ["constant", "knn", "ridge"])
def test_prompt_tokens_follow_the_length_of_prompt_and_context(name: str) -> None:
    texts = ["x" * n for n in range(10, 200, 10)]
    tokens = np.array([[len(t) * 0.25 + 7, len(t) * 0.5 + 20] for t in texts])
    table = OutcomeTable(
        query_ids=tuple(texts),
        texts=tuple(texts),
        arms=("a", "b"),
        measured={"quality": np.full(tokens.shape, 0.5), "prompt_tokens": tokens},
    )
    got = fit_router(name, table).predict(Query("x" * 400, context="y" * 600), ("a", "b"))
    for arm, expected in (("a", 257.0), ("b", 520.0)):
        predicted = got[arm].prompt_tokens
        assert predicted is not None
        assert predicted.mean == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("knn", {"neighbours": -1}),
        ("knn", {"neighbours": 2.5}),
        ("ridge", {"penalty": -1.0}),
        ("knn", {"neighbours": True}),
    ],
)
def test_impossible_settings_are_refused(name: str, parameters: dict[str, float]) -> None:
    table = world(["0", "1"], np.array([[1.0], [0.0]]))
    with pytest.raises(ConfigError, match=next(iter(parameters))):
        fit_router(name, table, parameters=parameters, encoder=coordinates(1))
