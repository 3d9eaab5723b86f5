"""Heads: they learn a planted law, leave unknown cells alone, are judged on unseen texts, and know what is unfamiliar."""

from functools import cache

import numpy as np
import pytest

from thinkroute.errors import DataError
from thinkroute.signals.calibration import Floats, sigmoid
from thinkroute.signals.head_training import Examples, HeadReport, fit_heads, solve
from thinkroute.signals.heads import HeadArrays, Heads, pack_heads, unpack_heads
from thinkroute.signals.static_table import StaticTable, pack, unpack

WORDS = 40


@cache
def table() -> StaticTable:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((WORDS + 1, 16)).astype(np.float32)
    return unpack(pack(["[UNK]", *(f"w{number}" for number in range(WORDS))], rows))


def texts(count: int) -> list[str]:
    rng = np.random.default_rng(1)
    return [" ".join(f"w{n}" for n in rng.integers(0, WORDS, rng.integers(5, 15))) for _ in range(count)]


def planted(made: list[str]) -> Floats:
    """Two labels: a linear law of the topic, drawn as yes or no, and its opposite as a share."""
    slope = np.random.default_rng(2).standard_normal(16)
    topics = np.stack([table().topic(table().tokens(text.encode())) for text in made])
    chance = sigmoid(4.0 * topics @ slope)
    drawn = np.random.default_rng(3).random(len(made)) < chance
    return np.stack([drawn.astype(np.float64), 1 - chance], axis=1)


def examples(count: int = 1200) -> Examples:
    made = texts(count)
    return Examples(made, made, planted(made), np.ones(count))


@cache
def fitted() -> tuple[HeadArrays, list[HeadReport], Floats]:
    return fit_heads(examples(), table())


def test_a_planted_law_is_learned_and_its_probabilities_mean_what_they_say() -> None:
    _, (drawn, share), _ = fitted()
    assert drawn.auroc > 0.9
    assert drawn.ece < 0.05
    assert share.spearman > 0.97
    assert share.ece < 0.04
    assert sum(part.weight for part in drawn.bins) == pytest.approx(1.0)


def test_unknown_cells_teach_nothing() -> None:
    full, hidden = examples(), examples()
    hidden.target_QL[500:, 0] = np.nan
    fewer = Examples(full.texts[:500], full.groups[:500], full.target_QL[:500], full.weight_Q[:500])
    features = np.random.default_rng(4).standard_normal((1200, 8)).astype(np.float32)
    with_unknown, _ = solve(features, hidden.target_QL[:, :1], hidden.weight_Q)
    without, _ = solve(features[:500], fewer.target_QL[:, :1], fewer.weight_Q)
    np.testing.assert_allclose(with_unknown, without, atol=2e-3)


def test_the_solution_is_where_the_penalised_log_loss_is_flat() -> None:
    rng = np.random.default_rng(5)
    features = rng.standard_normal((300, 6)).astype(np.float32)
    target = (rng.random((300, 1)) < 0.3).astype(np.float64)
    weight = rng.uniform(0.2, 1.0, 300)
    slope, shift = solve(features, target, weight)
    residual = weight * (sigmoid((features @ slope + shift)[:, 0].astype(np.float64)) - target[:, 0])
    np.testing.assert_allclose(features.T @ residual + slope[:, 0], 0.0, atol=5e-2)
    assert residual.sum() == pytest.approx(0.0, abs=5e-2)


def test_a_question_and_its_other_wording_do_not_vouch_for_each_other() -> None:
    """Labels drawn at random cannot be predicted for texts left out, unless a twin was left in."""
    made = texts(100)
    target = (np.random.default_rng(6).random((100, 1)) < 0.5).astype(np.float64)
    twice, labels = made + made, np.concatenate([target, target])
    apart = Examples(twice, [f"{n}" for n in range(200)], labels, np.ones(200))
    together = Examples(twice, twice, labels, np.ones(200))
    assert fit_heads(together, table())[1][0].auroc < 0.6
    assert fit_heads(apart, table())[1][0].auroc > 0.65


def test_reading_one_text_gives_what_training_saw() -> None:
    arrays, _, left_out = fitted()
    heads = Heads(unpack_heads(pack_heads(arrays)), table())
    read = np.stack([heads.read(text).probability_L for text in examples().texts[:200]])
    # Not equal: the predictions of training are those for left-out texts.
    assert np.corrcoef(read[:, 0], left_out[:200, 0])[0, 1] > 0.99


def test_texts_without_tokens_or_far_from_all_training_are_unfamiliar() -> None:
    heads = Heads(fitted()[0], table())
    assert all(heads.read(text).familiar for text in examples().texts[:20])
    assert not heads.read("").familiar
    assert not heads.read("\x00\u200b").familiar
    assert not heads.read("{}[]$$ 1234567890\n\n" * 3000).familiar


def test_a_label_without_both_sides_is_refused() -> None:
    one_sided = examples(50)
    one_sided.target_QL[:, 0] = 0.0
    with pytest.raises(DataError, match="both sides"):
        fit_heads(one_sided, table())


def test_a_damaged_file_is_refused() -> None:
    with pytest.raises(DataError, match="damaged"):
        unpack_heads(b"PK not really")
    with pytest.raises(DataError, match="damaged"):
        unpack(pack(["a"], np.ones((1, 2), dtype=np.float32))[:-40])
