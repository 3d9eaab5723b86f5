"""RouterDC: its losses against numbers worked out by hand, its parts, and what it learns."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.routers.tiny_encoder import tiny_encoder

from thinkroute.errors import ConfigError
from thinkroute.routers import OutcomeTable, load_router, save_router
from thinkroute.routers.routerdc import router as module
from thinkroute.routers.routerdc.losses import (
    Picks,
    Weights,
    clusters,
    dual_loss,
    partners,
    pick,
    sample_arm_loss,
    sample_sample_loss,
    unit,
)
from thinkroute.routers.routerdc.router import RouterDcRouter
from thinkroute.routers.table import FloatArray
from thinkroute.signals import fit_encoder
from thinkroute.signals.base import Scalar
from thinkroute.types import Query

NAN = float("nan")
THINGS = ("sun", "sea", "rain", "red")


def picks(positive: list[int], negative: list[int]) -> Picks:
    """One row in which all named arms count."""
    return Picks(
        np.array([positive]),
        np.ones((1, len(positive)), dtype=np.bool_),
        np.array([negative]),
        np.ones((1, len(negative)), dtype=np.bool_),
    )


def topics(rows: int = 80, arms: tuple[str, ...] = ("mathematician", "poet", "sleeper")) -> OutcomeTable:
    """Sums and poems: one arm is right on either, the third on neither. A tenth of the labels is turned round."""
    rng = np.random.default_rng(0)
    texts = tuple(
        f"{'sum of' if row % 2 else 'poem of the'} {THINGS[row % 4]} number {row}" for row in range(rows)
    )
    sum_Q = np.arange(rows) % 2 == 1
    right_QA = np.stack([sum_Q, ~sum_Q, np.zeros(rows, dtype=np.bool_)], axis=1)
    turned_QA = right_QA ^ (rng.random(right_QA.shape) < 0.1)
    quality_QA = turned_QA.astype(np.float64)
    return OutcomeTable(
        tuple(map(str, range(rows))),
        texts,
        arms,
        {"quality": quality_QA, "answer_tokens": 50 + 50.0 * quality_QA},
    )


def fitted(table: OutcomeTable, **parameters: Scalar) -> RouterDcRouter:
    encoder = fit_encoder("hashed_ngrams", table.texts, {"buckets": 256, "components": 6})
    router = module.fit(table, parameters, encoder)
    assert isinstance(router, RouterDcRouter)
    return router


def test_a_positive_as_near_as_its_only_negative_costs_the_logarithm_of_two() -> None:
    loss, gradient_BA = sample_arm_loss(np.array([[0.3, 0.3]]), picks([0], [1]), 1.0)
    assert loss == pytest.approx(math.log(2))
    np.testing.assert_allclose(gradient_BA, [[-0.5, 0.5]])


def test_the_first_loss_follows_its_formula() -> None:
    """s = (1, 0, −1), p = 0: −log(e/(e + 1 + e⁻¹)) = log(1 + e⁻¹ + e⁻²); τ = ½ doubles every similarity."""
    similarity_BA = np.array([[1.0, 0.0, -1.0]])
    assert sample_arm_loss(similarity_BA, picks([0], [1, 2]), 1.0)[0] == pytest.approx(0.40760596, abs=1e-8)
    assert sample_arm_loss(similarity_BA, picks([0], [1, 2]), 0.5)[0] == pytest.approx(
        math.log(1 + math.exp(-2) + math.exp(-4))
    )


def test_positives_compete_with_negatives_and_not_with_each_other() -> None:
    """Two positives at 0.5 against one negative at 0: twice log(1 + e^-0.5), whatever the other positive does."""
    loss, _ = sample_arm_loss(np.array([[0.5, 0.5, 0.0]]), picks([0, 1], [2]), 1.0)
    assert loss == pytest.approx(2 * math.log(1 + math.exp(-0.5)))
    _, gradient_BA = sample_arm_loss(np.array([[0.9, -0.9, 0.0]]), picks([0], [2]), 1.0)
    assert gradient_BA[0, 1] == 0.0


def test_the_second_loss_follows_its_formula() -> None:
    """Partner and H = 3 others at one cosine: log 4. Partner at 1, others at 0, τ = ½: log(1 + 3 e⁻²)."""
    loss, by_same_B, by_other_BH = sample_sample_loss(np.array([0.2]), np.full((1, 3), 0.2), 1.0)
    assert loss == pytest.approx(math.log(4))
    np.testing.assert_allclose(by_same_B, [-0.75])
    np.testing.assert_allclose(by_other_BH, [[0.25] * 3])
    loss, _, _ = sample_sample_loss(np.array([1.0]), np.zeros((1, 3)), 0.5)
    assert loss == pytest.approx(math.log(1 + 3 * math.exp(-2)))


def test_good_arms_are_never_negatives_bad_arms_never_positives_and_missing_cells_are_neither() -> None:
    found = pick(np.array([[0.9, 0.6, 0.0, NAN]]), 3, 3, None)
    assert found.positive_BK.tolist() == [[0, 1, 2]]
    assert found.positive_counts_BK.tolist() == [[True, True, False]]
    assert found.negative_BK.tolist() == [[2, 1, 0]]
    assert found.negative_counts_BK.tolist() == [[True, False, False]]
    unseen = pick(np.full((1, 3), NAN), 2, 2, None)
    assert not unseen.positive_counts_BK.any()
    assert not unseen.negative_counts_BK.any()


def test_equally_good_arms_take_turns_unless_ties_go_by_column() -> None:
    quality_BA = np.ones((600, 3))
    drawn = pick(quality_BA, 1, 1, np.random.default_rng(0)).positive_BK[:, 0]
    assert np.bincount(drawn, minlength=3).min() > 150
    assert set(pick(quality_BA, 1, 1, None).positive_BK[:, 0].tolist()) == {0}


def test_a_row_without_negatives_costs_nothing() -> None:
    """All arms are good: nothing may be pushed away, so there is nothing to learn."""
    loss, gradient_BA = sample_arm_loss(np.array([[0.1, 0.9]]), pick(np.ones((1, 2)), 2, 2, None), 1.0)
    assert loss == 0.0
    assert not gradient_BA.any()


@given(seed=st.integers(0, 1000), others=st.sampled_from([0, 2]), temperature=st.sampled_from([0.2, 1.0]))
def test_gradients_are_those_of_finite_differences(seed: int, others: int, temperature: float) -> None:
    rng = np.random.default_rng(seed)
    size, arms, width = 3, 4, 3
    raw_NE = rng.standard_normal((size * (2 + others) if others else size, width))
    arm_AE = rng.standard_normal((arms, width))
    chosen = pick(np.round(rng.random((size, arms)), 1), 2, 2, rng)
    weights = Weights(temperature, 0.7)
    _, by_raw_NE, by_arm_AE = dual_loss(raw_NE, arm_AE, chosen, weights, others)
    for matrix, gradient in ((raw_NE, by_raw_NE), (arm_AE, by_arm_AE)):
        at = tuple(rng.integers(0, matrix.shape))
        wanted: list[float] = []
        for step in (1e-6, -1e-6):
            matrix[at] += step
            wanted.append(dual_loss(raw_NE, arm_AE, chosen, weights, others)[0])
            matrix[at] -= step
        assert gradient[at] == pytest.approx((wanted[0] - wanted[1]) / 2e-6, abs=1e-6)


@given(labels=st.lists(st.integers(0, 3), min_size=2, max_size=30), seed=st.integers(0, 100))
def test_partners_are_other_queries_of_the_cluster_and_the_rest_are_not(labels: list[int], seed: int) -> None:
    cluster_R = np.array(labels, dtype=np.intp)
    row_B = np.arange(len(labels), dtype=np.intp)
    found = partners(row_B, cluster_R, 3, np.random.default_rng(seed))
    if len(set(labels)) == 1:
        assert found is None
        return
    assert found is not None
    same_B, other_BH = found
    assert np.array_equal(cluster_R[same_B], cluster_R)
    assert np.all(cluster_R[other_BH] != cluster_R[:, None])
    alone_B = np.array([labels.count(label) == 1 for label in labels])
    assert np.array_equal(same_B == row_B, alone_B)


def test_clusters_find_what_lies_together() -> None:
    rng = np.random.default_rng(0)
    centre_CD = np.eye(3)
    vector_RD: FloatArray = np.repeat(centre_CD, 20, axis=0) + 0.05 * rng.standard_normal((60, 3))
    label_R = clusters(vector_RD, 3, rng)
    assert [len(set(label_R[start : start + 20].tolist())) for start in (0, 20, 40)] == [1, 1, 1]
    assert len(set(label_R.tolist())) == 3


def test_it_learns_which_arm_is_good_at_what() -> None:
    """Labels are wrong in a tenth of the cells: the right arm's probability is near .9, the others' near .1."""
    router = fitted(topics(300), steps=100)
    for text, best in (("sum of sea number 391", 0), ("poem of the sun number 390", 1)):
        predicted = router.predict(Query(text), ("mathematician", "poet", "sleeper"))
        means = [prediction.quality.mean for prediction in predicted.values()]
        assert int(np.argmax(means)) == best
        assert means[best] == pytest.approx(0.9, abs=0.15)
        assert sorted(means)[1] == pytest.approx(0.1, abs=0.15)
        tokens = predicted[("mathematician", "poet", "sleeper")[best]].answer_tokens
        assert tokens is not None
        assert tokens.mean == pytest.approx(95, abs=10)


def test_the_papers_preset_chooses_by_the_cosine() -> None:
    """One map for all arms is monotone, so the most probable arm is the nearest one."""
    router = fitted(topics(), preset="paper", steps=60)
    assert router.settings.ties == "column"
    assert router.settings.balance_tasks
    queries = [Query(text) for text in topics(40).texts]
    cosine_QA = router.similarities(queries)
    order = [router.arms.index(arm) for arm in router.arms]
    quality_QA = router.predict_batch(queries, router.arms).quality.mean_QA[:, order]
    assert np.array_equal(cosine_QA.argmax(axis=1), quality_QA.argmax(axis=1))
    assert np.all(np.abs(cosine_QA) <= 1 + 1e-12)


def test_folds_that_disagree_widen_the_spread() -> None:
    """Far from all training text models differ, and the spread says so."""
    router = fitted(topics(), steps=150)
    queries = [Query("sum of sun number 3"), Query("x" * 3000)]
    std_QA = router.predict_batch(queries, router.arms).quality.std_QA
    assert np.all(std_QA > 0)
    assert std_QA[1].mean() > std_QA[0].mean()


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"preset": "theirs"}, "preset='theirs' is unknown: use one of default, paper"),
        ({"ties": "coin"}, "ties='coin'"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"clusters": 0}, "clusters=0 must be at least 1"),
        ({"model": "somewhere", "folds": 3}, "a fine-tuned encoder is one model"),
    ],
)
def test_wrong_settings_are_refused_by_name(parameters: dict[str, Scalar], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        fitted(topics(12), **parameters)


def test_an_encoder_is_trained_end_to_end_and_served_without_torch(tmp_path: Path) -> None:
    """The random encoder starts at chance; after training sums and poems go to different arms."""
    table = topics(60)
    router = fitted(
        table,
        model=tiny_encoder(),
        most_tokens=16,
        steps=60,
        batch_size=16,
        encoder_learning_rate=5e-3,
        maps="arm",
    )
    queries = [Query("sum of sun number 1"), Query("poem of the sun number 2")]
    quality_QA = router.predict_batch(queries, table.arms).quality.mean_QA
    assert quality_QA.argmax(axis=1).tolist() == [0, 1]
    save_router(router, tmp_path)
    assert load_router(tmp_path).predict(queries[0], table.arms) == router.predict(queries[0], table.arms)
    code = (
        "import sys\nfrom thinkroute.routers import load_router\nfrom thinkroute.types import Query\n"
        f"load_router({str(tmp_path)!r}).predict(Query('sum of sun'), ('poet',))\n"
        "print([name for name in ('torch', 'transformers', 'onnx') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stdout.strip() == "[]"


def test_unit_vectors_of_nothing_stay_finite() -> None:
    assert np.isfinite(unit(np.zeros((1, 3)))[0]).all()
