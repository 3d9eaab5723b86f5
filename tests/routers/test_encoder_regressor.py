"""The fine-tuned encoder: what it reads, what it learns, and that serving computes what training did."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.routers.tiny_encoder import KINDS, tiny_encoder

from thinkroute.errors import ConfigError, DataError
from thinkroute.routers import OutcomeTable, load_router, read_card, save_router
from thinkroute.routers.encoder_regressor import router as module
from thinkroute.routers.encoder_regressor.network import load_network
from thinkroute.routers.encoder_regressor.router import EncoderRegressorRouter
from thinkroute.routers.encoder_regressor.text import TextModel, TokenCutter
from thinkroute.signals.base import Scalar
from thinkroute.types import Query

NAN = float("nan")
THINGS = ("sun", "sea", "rain")
TEXTS = ("add 12 plus seven", "poem of the red sea", "why", "", "x + y if proof " * 40)


def topics(rows: int = 150) -> OutcomeTable:
    """Arm `calculator` is good at sums and brief, `poet` at poems and wordy; a third of the cells were not measured."""
    rng = np.random.default_rng(0)
    texts = tuple(
        f"{'math sum of' if row % 2 else 'poem of the'} {THINGS[row % 3]} {row}" for row in range(rows)
    )
    sum_Q = np.arange(rows) % 2 == 1
    quality_QA = np.where(np.stack([sum_Q, ~sum_Q], axis=1), 0.9, 0.2)
    tokens_QA = np.where(sum_Q[:, None], [[10.0, 300.0]], [[20.0, 600.0]])
    missing_QA = rng.random(quality_QA.shape) < 0.3
    missing_QA[:2] = False
    return OutcomeTable(
        tuple(map(str, range(rows))),
        texts,
        ("calculator", "poet"),
        {
            "quality": np.where(missing_QA, NAN, quality_QA),
            "answer_tokens": np.where(missing_QA, NAN, tokens_QA),
            "cost_usd": np.where(missing_QA, NAN, 1e-6 * tokens_QA),
        },
    )


def fitted(table: OutcomeTable, **parameters: Scalar) -> EncoderRegressorRouter:
    settings: dict[str, Scalar] = {"model": tiny_encoder(), "most_tokens": 24, "epochs": 6, "patience": 6}
    settings |= {"accumulation": 1, "learning_rate": 1e-2, "head_learning_rate": 2e-2}
    router = module.fit(table, {**settings, **parameters}, None)
    assert isinstance(router, EncoderRegressorRouter)
    return router


@pytest.fixture(scope="module")
def router() -> EncoderRegressorRouter:
    return fitted(topics())


def tokenizer() -> bytes:
    return (Path(tiny_encoder()) / "tokenizer.json").read_bytes()


def test_a_long_text_keeps_its_head_and_its_tail_and_says_so() -> None:
    """[CLS] and [SEP] leave room for four tokens: two from either end."""
    cutter = TokenCutter(tokenizer(), 6)
    whole, was_cut = cutter("add red sun sea")
    assert not was_cut
    ids, was_cut = cutter("add red 12 12 12 12 sun sea")
    assert was_cut
    assert ids == whole
    assert cutter("") == ([2, 3], False)
    assert cutter("a " * 1_000_000)[1]


def test_a_tokenizer_without_room_is_refused() -> None:
    with pytest.raises(DataError, match="most_tokens=3 leaves no room"):
        TokenCutter(tokenizer(), 3)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_float_graph_computes_what_torch_does_and_int8_stays_near(pooling: str) -> None:
    """Parity within 1e-3 for float32; for int8 the drift is at most a tenth of the outputs' spread between texts."""
    import torch

    network = load_network(tiny_encoder(), pooling=pooling, most_tokens=24)
    network.eval()
    with torch.no_grad():
        wanted_QK = np.stack([network.outputs([text]).numpy()[0] for text in TEXTS])
        together_QK = network.outputs(list(TEXTS)).numpy()
    exact, rounded = (TextModel(network.export(precision)) for precision in ("float32", "int8"))
    np.testing.assert_allclose(exact.encode_batch(TEXTS), wanted_QK, atol=1e-3)
    np.testing.assert_allclose(together_QK, wanted_QK, atol=1e-4)  # padding is masked
    drift = np.abs(rounded.encode_batch(TEXTS) - wanted_QK).max()
    assert 0 < drift < 0.1 * wanted_QK.std(axis=0).max() + 0.02
    assert b"MatMulInteger" in rounded.parts.graph
    assert b"MatMulInteger" not in exact.parts.graph


@pytest.mark.parametrize("kind", KINDS)
def test_encoders_of_other_families_are_trained_exported_and_served(kind: str) -> None:
    """Rotary positions and sliding windows (ModernBERT), relative positions (DeBERTa): exporting checks the numbers."""
    router = fitted(topics(40), model=tiny_encoder(kind), epochs=1, precision="int8")
    for text in ("math sum of sea", "poem of the rain " * 20):
        found = router.predict(Query(text), ("calculator", "poet"))["poet"]
        assert found.answer_tokens is not None
        assert 0 <= found.quality.mean <= 1


def test_int8_predictions_drift_little_from_float32() -> None:
    """The same training served both ways: calibration sits on top of either, so quality moves by under 0.03."""
    table = topics()
    queries = table.queries()[:10]
    eight, full = (fitted(table, precision=p).predict_batch(queries, table.arms) for p in ("int8", "float32"))
    assert np.abs(eight.quality.mean_QA - full.quality.mean_QA).max() < 0.03


def test_it_learns_quality_and_tokens_of_every_arm_from_measured_cells(
    router: EncoderRegressorRouter,
) -> None:
    for text, good, calculator_tokens, poet_tokens in (
        ("math sum of sea", 0, 10, 300),
        ("poem of the sun", 1, 20, 600),
    ):
        predicted = router.predict(Query(text), ("calculator", "poet"))
        means = [predicted[arm].quality.mean for arm in ("calculator", "poet")]
        assert means[good] == pytest.approx(0.9, abs=0.1)
        assert means[1 - good] == pytest.approx(0.2, abs=0.1)
        for arm, tokens in (("calculator", calculator_tokens), ("poet", poet_tokens)):
            found, cost = predicted[arm].answer_tokens, predicted[arm].cost_usd
            assert found is not None
            assert cost is not None
            assert found.mean == pytest.approx(tokens, rel=0.15)
            assert cost.mean == pytest.approx(1e-6 * tokens, rel=0.15)


def test_training_stops_early_and_keeps_the_best_epoch() -> None:
    """At an absurd learning rate every epoch is worse than none: the averages are kept."""
    lost = fitted(topics(), learning_rate=30.0, head_learning_rate=30.0, epochs=4, patience=1)
    assert lost.found["kept_epochs"] == 0
    predicted = lost.predict(Query("math sum of sea"), ("calculator",))["calculator"]
    assert predicted.quality.mean == pytest.approx(0.55, abs=0.15)


def test_what_was_cut_is_on_the_card_and_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        short = fitted(topics(20), most_tokens=5, epochs=1)
        assert short.found["cut_share"] == 1.0
        assert "100.0 % of the texts are longer than 5 tokens" in caplog.text
        caplog.clear()
        short.predict(Query("sum of the red sun"), ("poet",))
        assert "was cut to its first and last tokens" in caplog.text
    save_router(short, tmp_path)
    assert read_card(tmp_path).parameters["cut_share"] == 1.0


def test_an_artefact_serves_without_torch_and_transformers(
    router: EncoderRegressorRouter, tmp_path: Path
) -> None:
    save_router(router, tmp_path)
    query = Query("math sum of sea")
    assert load_router(tmp_path).predict(query, ("poet", "new")) == router.predict(query, ("poet", "new"))
    code = (
        "import json, sys\nfrom thinkroute.routers import load_router\nfrom thinkroute.types import Query\n"
        f"p = load_router({str(tmp_path)!r}).predict(Query('math sum of sea'), ('poet',))['poet']\n"
        "heavy = [name for name in ('torch', 'transformers', 'onnx') if name in sys.modules]\n"
        "print(json.dumps([heavy, p.quality.mean]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100
    )
    assert json.loads(done.stdout) == [[], router.predict(query, ("poet",))["poet"].quality.mean]


def test_a_damaged_artefact_says_what_is_missing(router: EncoderRegressorRouter) -> None:
    state = router.state()
    from dataclasses import replace

    without = {name: array for name, array in state.arrays.items() if name != "text_graph"}
    with pytest.raises(DataError, match="lacks text_graph"):
        module.restore(replace(state, arrays=without))
    with pytest.raises(DataError, match="ONNX Runtime can read"):
        module.restore(replace(state, arrays={**state.arrays, "text_graph": np.zeros(9, dtype=np.uint8)}))


def test_a_missing_model_or_a_wrong_setting_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model is not set"):
        module.fit(topics(), {}, None)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        fitted(topics(), model=str(tmp_path))
    with pytest.raises(ConfigError, match="pooling='max' is unknown: use one of mean, cls"):
        fitted(topics(), pooling="max")
    with pytest.raises(ConfigError, match="reads at most 64 tokens, most_tokens=512"):
        fitted(topics(), most_tokens=512)


def test_a_missing_training_library_names_the_extra() -> None:
    """In a process where torch cannot be imported."""
    code = (
        "import sys\nsys.modules['torch'] = None\n"
        "from thinkroute.errors import ConfigError\n"
        "from thinkroute.routers.encoder_regressor.network import load_network\n"
        "try:\n    load_network('somewhere', pooling='mean', most_tokens=9)\n"
        "except ConfigError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100
    )
    assert "pip install 'thinkroute[train]'" in done.stdout
