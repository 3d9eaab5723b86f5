"""The six promises of `thinkroute.routers.base`, for every router in the table."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.routers.tiny_encoder import tiny_encoder

from thinkroute.errors import ConfigError, DataError
from thinkroute.routers import ROUTERS, OutcomeTable, TableRouter, fit_router, load_router, save_router
from thinkroute.routers.base import PRIOR_QUALITY_STD
from thinkroute.routers.table import FloatArray
from thinkroute.signals import fit_encoder
from thinkroute.signals.base import Scalar
from thinkroute.types import Query

ALL = pytest.mark.parametrize("name", list(ROUTERS))
QUICK = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
QUICKLY_TRAINED: dict[str, dict[str, Scalar]] = {
    "routerdc": {"steps": 5, "batch_size": 8, "dimension": 4, "folds": 2},
    "graph": {"steps": 3, "folds": 2},
    "encoder_regressor": {"epochs": 1, "most_tokens": 16, "batch_size": 8, "precision": "float32"},
    "mlp": {"hidden": 6, "members": 2, "epochs": 4},
    "matrix_factorisation": {"dimension": 4, "epochs": 4},
    "hybrid": {"penalty": 100.0},
    "logistic": {"penalty": 100.0},
    "ensemble": {"members": "kmeans,ridge"},
}
"""The laws hold however long a router is trained."""
FORMS: dict[str, tuple[str, dict[str, Scalar]]] = {
    "Avengers-Pro's table": ("kmeans", {"clusters": 4, "nearest": 3, "prior_weight": 0.0}),
    "mlp that ranks": ("mlp", {"loss": "ranking"}),
    "pairwise factors": ("matrix_factorisation", {"form": "pairwise"}),
    "RouteLLM's factors": ("matrix_factorisation", {"form": "pairwise", "labels": "paper"}),
    "hard HybridLLM": ("hybrid", {"labels": "hard"}),
    "shifted HybridLLM": ("hybrid", {"labels": "shifted"}),
    "GraphRouter's labels": ("graph", {"labels": "paper"}),
    "graph of tasks": ("graph", {"task_nodes": True}),
    "RouterDC's preset": ("routerdc", {"preset": "paper", "steps": 5}),
    "ensemble of unlike members": ("ensemble", {"members": "constant,guarded_knn,task_lookup"}),
}
"""Forms of routers that settings choose: what the papers did, and other losses."""
WORDS = ("add", "red", "seven", "if", "proof", "12", "x+y", "print(1)", "Why?", "für", "\n", "…")


def table_of(quality_QA: FloatArray, texts: tuple[str, ...]) -> OutcomeTable:
    rows, arms = len(texts), len(quality_QA[0])
    prompt_QA = np.tile(np.array([[len(text.encode()) / 4 + 3.0] for text in texts]), arms)
    return OutcomeTable(
        query_ids=tuple(f"q{row}" for row in range(rows)),
        texts=texts,
        arms=tuple(f"arm{arm}@off" for arm in range(arms)),
        measured={
            "quality": quality_QA,
            "prompt_tokens": np.where(np.isnan(quality_QA), np.nan, prompt_QA),
            "answer_tokens": 20 + 100 * quality_QA,
            "cost_usd": 0.001 * (1 + np.arange(arms)) * (1 + quality_QA),
        },
    )


@st.composite
def tables(draw: st.DrawFn) -> OutcomeTable:
    """Random tables of 2 to 4 arms; every arm has at least one graded cell."""
    arms = draw(st.integers(2, 4))
    rows = draw(st.integers(5, 14))
    cell = st.one_of(st.floats(0, 1, allow_nan=False), st.sampled_from([0.0, 1.0]), st.just(float("nan")))
    cells = draw(st.lists(st.lists(cell, min_size=arms, max_size=arms), min_size=rows, max_size=rows))
    texts = draw(st.lists(st.lists(st.sampled_from(WORDS), max_size=8), min_size=rows, max_size=rows))
    quality_QA = np.array(cells)
    quality_QA[0] = 0.5
    return table_of(quality_QA, tuple(" ".join(words) for words in texts))


def fitted(name: str, table: OutcomeTable, texts: tuple[str, ...] | None = None) -> TableRouter:
    encoder = fit_encoder("hashed_ngrams", texts or table.texts, {"buckets": 256, "components": 6})
    name, form = FORMS.get(name, (name, {}))
    parameters = {**QUICKLY_TRAINED.get(name, {}), **form}
    if name == "encoder_regressor":
        parameters["model"] = tiny_encoder()
    return fit_router(name, table, parameters=parameters, encoder=encoder)


QUERIES = (Query("add seven and 12"), Query("Why? proof"), Query(""), Query("print(1) " * 50))


@ALL
@QUICK
@given(table=tables(), data=st.data())
def test_permuting_queries_or_asking_for_fewer_arms_changes_no_number(
    name: str, table: OutcomeTable, data: st.DataObject
) -> None:
    router = fitted(name, table)
    whole = router.predict_batch(QUERIES, table.arms)
    arms = data.draw(st.permutations(table.arms))[: data.draw(st.integers(1, len(table.arms)))]
    order = data.draw(st.permutations(range(len(QUERIES))))
    part = router.predict_batch([QUERIES[i] for i in order], arms)
    for place, row in enumerate(order):
        for arm in arms:
            assert part.at(place, arm) == whole.at(row, arm)


@ALL
@QUICK
@given(table=tables())
def test_one_query_gets_the_numbers_of_the_batch(name: str, table: OutcomeTable) -> None:
    router = fitted(name, table)
    batch = router.predict_batch(QUERIES, table.arms)
    for row, query in enumerate(QUERIES):
        single = router.predict(query, table.arms)
        assert list(single) == list(table.arms)
        for arm in table.arms:
            expected = batch.at(row, arm)
            assert single[arm].quality.mean == pytest.approx(expected.quality.mean, abs=1e-9)
            assert single[arm].quality.std == pytest.approx(expected.quality.std, abs=1e-9)
            assert (single[arm].answer_tokens is None) == (expected.answer_tokens is None)


@ALL
@QUICK
@given(table=tables(), data=st.data())
def test_the_order_of_arms_in_the_table_does_not_matter(
    name: str, table: OutcomeTable, data: st.DataObject
) -> None:
    turned = table.select_arms(data.draw(st.permutations(table.arms)))
    one = fitted(name, table).predict_batch(QUERIES, table.arms).quality
    two = fitted(name, turned).predict_batch(QUERIES, table.arms).quality
    np.testing.assert_allclose(one.mean_QA, two.mean_QA, atol=1e-6)
    np.testing.assert_allclose(one.std_QA, two.std_QA, atol=1e-6)


@ALL
@QUICK
@given(table=tables())
def test_every_number_is_in_its_range(name: str, table: OutcomeTable) -> None:
    predictions = fitted(name, table).predict_batch(QUERIES, table.arms)
    assert np.all((predictions.quality.mean_QA >= 0) & (predictions.quality.mean_QA <= 1))
    for moments in predictions.moments.values():
        assert not np.any(moments.mean_QA < 0)
        assert not np.any(moments.std_QA < 0)


@ALL
@QUICK
@given(table=tables())
def test_rows_without_a_cell_teach_nothing(name: str, table: OutcomeTable) -> None:
    """Adding queries whose cells are all missing must not pull any prediction towards zero."""
    blank = np.full((3, len(table.arms)), np.nan)
    wider = OutcomeTable(
        query_ids=(*table.query_ids, "b0", "b1", "b2"),
        texts=(*table.texts, "blank one", "blank two", "blank three"),
        arms=table.arms,
        measured={m: np.concatenate([matrix, blank]) for m, matrix in table.measured.items()},
    )
    one = fitted(name, table).predict_batch(QUERIES, table.arms).quality
    two = fitted(name, wider, table.texts).predict_batch(QUERIES, table.arms).quality
    np.testing.assert_allclose(one.mean_QA, two.mean_QA, atol=1e-9)


@pytest.mark.parametrize("name", [n for n in ROUTERS if n != "best_single"])
@QUICK
@given(table=tables(), level=st.sampled_from([0.0, 0.25, 1.0]))
def test_constant_outcomes_give_constant_predictions(name: str, table: OutcomeTable, level: float) -> None:
    quality_QA = np.where(np.isnan(table.quality_QA), np.nan, level)
    flat = replace(table, measured={**table.measured, "quality": quality_QA})
    predictions = fitted(name, flat).predict_batch(QUERIES, table.arms)
    np.testing.assert_allclose(predictions.quality.mean_QA, level, atol=1e-9)
    np.testing.assert_allclose(predictions.quality.std_QA, 0.0, atol=1e-6)


@ALL
@QUICK
@given(table=tables())
def test_a_saved_router_predicts_the_same_after_loading(
    name: str, table: OutcomeTable, tmp_path: Path
) -> None:
    router = fitted(name, table)
    card = save_router(router, tmp_path / name, metrics={"held_out_quality": 0.5})
    again = load_router(tmp_path / name)
    assert again.version == router.version == card.version
    for query in QUERIES:
        assert again.predict(query, (*table.arms, "new")) == router.predict(query, (*table.arms, "new"))


@pytest.mark.parametrize("name", list(FORMS))
@settings(QUICK, max_examples=5)
@given(table=tables())
def test_other_forms_of_a_router_keep_the_promises_too(
    name: str, table: OutcomeTable, tmp_path: Path
) -> None:
    turned = table.select_arms(table.arms[::-1])
    router, other = fitted(name, table), fitted(name, turned)
    save_router(other, tmp_path / "router")
    again = load_router(tmp_path / "router")
    batch = router.predict_batch(QUERIES, table.arms)
    assert np.all((batch.quality.mean_QA >= 0) & (batch.quality.mean_QA <= 1))
    assert np.all(batch.quality.std_QA >= 0)
    for found in (other, again):
        moments = found.predict_batch(QUERIES, table.arms).moments
        for measure, expected in batch.moments.items():
            np.testing.assert_allclose(moments[measure].mean_QA, expected.mean_QA, rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(moments[measure].std_QA, expected.std_QA, rtol=1e-6, atol=1e-9)
    for row, query in enumerate(QUERIES):
        assert router.predict(query, table.arms)["arm0@off"].quality.mean == pytest.approx(
            batch.at(row, "arm0@off").quality.mean, abs=1e-9
        )


def test_members_of_an_ensemble_may_keep_their_arms_in_another_order() -> None:
    """GraphRouter sorts its arms by name, kNN keeps the table's order; columns must not be mixed up."""
    quality_QA = np.tile([[1.0, 0.0, 0.5]], (20, 1))
    table = table_of(quality_QA, tuple(f"text {WORDS[row % 12]} {row}" for row in range(20)))
    turned = table.select_arms(("arm2@off", "arm1@off", "arm0@off"))
    encoder = fit_encoder("hashed_ngrams", table.texts, {"buckets": 256, "components": 6})
    router = fit_router("ensemble", turned, parameters={"members": "constant,graph"}, encoder=encoder)
    found = router.predict(Query("text"), table.arms)
    means = [found[arm].quality.mean for arm in table.arms]
    assert means == pytest.approx([1.0, 0.0, 0.5], abs=1e-6)


@ALL
def test_tokens_and_dollars_come_with_their_uncertainty_as_quality_does(name: str) -> None:
    rng = np.random.default_rng(0)
    quality_QA = rng.uniform(size=(30, 3))
    quality_QA[rng.uniform(size=quality_QA.shape) < 0.2] = np.nan
    table = table_of(quality_QA, tuple(" ".join(rng.choice(WORDS, 5)) for _ in range(30)))
    for prediction in fitted(name, table).predict(QUERIES[0], table.arms).values():
        for estimate in (prediction.quality, prediction.answer_tokens, prediction.cost_usd):
            assert estimate is not None
            assert estimate.std > 0
        assert prediction.answer_tokens is not None
        assert 20 <= prediction.answer_tokens.mean <= 120


def test_no_fitted_router_needs_torch_to_be_loaded_and_asked(tmp_path: Path) -> None:
    table = table_of(
        np.random.default_rng(0).uniform(size=(12, 2)), tuple(f"{WORDS[row]} {row}" for row in range(12))
    )
    for name in ROUTERS:
        save_router(fitted(name, table), tmp_path / name)
    program = (
        "import sys\nfrom pathlib import Path\n"
        "for library in ('torch', 'transformers', 'onnx'): sys.modules[library] = None\n"
        "from thinkroute.routers import load_router\nfrom thinkroute.types import Query\n"
        "for folder in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    router = load_router(folder)\n"
        "    print(folder.name, len(router.predict(Query('add 12'), router.arms)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout.split("\n")[:-1] == [f"{name} 2" for name in sorted(ROUTERS)], done.stderr


@ALL
def test_an_arm_without_outcomes_gets_the_marked_prior(name: str) -> None:
    quality_QA = np.array([[0.2, 0.6, np.nan], [0.4, 1.0, np.nan], [0.0, 0.8, np.nan]])
    table = table_of(quality_QA, ("one", "two three", "four five six"))
    router = fitted(name, table)
    assert router.arms == ("arm0@off", "arm1@off")
    predictions = router.predict(Query("two"), ("arm0@off", "arm2@off", "unheard@high"))
    assert predictions["arm0@off"].basis == "fitted"
    for arm in ("arm2@off", "unheard@high"):
        prior = predictions[arm]
        assert prior.basis == "prior"
        assert prior.quality.mean == pytest.approx((0.2 + 0.8) / 2)
        assert prior.quality.std == PRIOR_QUALITY_STD
        assert prior.answer_tokens is not None
        assert prior.answer_tokens.mean == pytest.approx(70.0)
        assert prior.cost_usd is None
    batch = router.predict_batch([Query("two")], ("arm0@off", "unheard@high"))
    assert batch.known_A.tolist() == [True, False]
    assert batch.at(0, "unheard@high") == predictions["unheard@high"]


@ALL
def test_unmeasured_quantities_are_unknown_not_zero(name: str) -> None:
    table = OutcomeTable(
        query_ids=("a", "b", "c"),
        texts=("one", "two", "three"),
        arms=("x", "y"),
        measured={
            "quality": np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]),
            "latency_s": np.array([[0.5, np.nan], [0.7, np.nan], [np.nan, np.nan]]),
        },
    )
    predictions = fitted(name, table).predict(Query("one"), ("x", "y"))
    assert predictions["x"].latency_s is not None
    assert predictions["x"].latency_s.mean > 0.4
    assert predictions["y"].latency_s is None
    assert predictions["x"].cost_usd is None
    assert predictions["x"].reasoning_tokens is None


@ALL
def test_a_table_without_any_grade_cannot_be_fitted(name: str) -> None:
    table = table_of(np.full((3, 2), np.nan), ("a", "b", "c"))
    with pytest.raises(DataError, match="no graded cell"):
        fitted(name, table)


@ALL
def test_one_graded_query_is_enough_to_fit(name: str) -> None:
    table = table_of(np.array([[1.0, 0.0]]), ("the only question",))
    predictions = fitted(name, table).predict(Query("another question"), table.arms)
    assert predictions["arm0@off"].quality.mean == pytest.approx(1.0)


@ALL
def test_an_unknown_setting_is_refused_by_name(name: str) -> None:
    table = table_of(np.array([[1.0, 0.0], [0.0, 1.0]]), ("a", "b"))
    with pytest.raises(ConfigError, match="spin"):
        fit_router(name, table, parameters={"spin": 3})


def test_an_unknown_router_lists_the_known_ones() -> None:
    table = table_of(np.array([[1.0, 0.0]]), ("a",))
    with pytest.raises(ConfigError, match="constant, best_single, random_mix, knn"):
        fit_router("oracle", table)
