"""The bundled encoder: deterministic everywhere, quick, and telling texts apart."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkroute.errors import ConfigError, DataError
from thinkroute.signals import EncoderState, fit_encoder, restore_encoder
from thinkroute.signals.hashed_ngrams import (
    _TOKEN,  # pyright: ignore[reportPrivateUsage]
    _TOKEN_ASCII,  # pyright: ignore[reportPrivateUsage]
)
from thinkroute.signals.structure import FEATURES, structure

TEXTS = (
    "Write a Python function that sorts a list.",
    "def f(x): return x  # what does this function do?",
    "Prove that the square root of two is irrational.",
    "What is the integral of $x^2$ over [0, 1]?",
    "Translate to French: the cat sat on the mat.",
    "Translate to German: the dog sat on the rug.",
)
SMALL = {"buckets": 512, "components": 5}


@given(st.text())
@settings(max_examples=60, deadline=None)
def test_any_text_has_a_finite_vector_of_the_declared_length(text: str) -> None:
    encoder = fit_encoder("hashed_ngrams", TEXTS, SMALL)
    vector = encoder.encode(text)
    assert vector.shape == (encoder.dimension,)
    assert vector.dtype == np.float32
    assert np.isfinite(vector).all()


def test_ascii_text_has_the_same_words_read_as_text_or_as_bytes() -> None:
    texts = [f"a{chr(code)}b {chr(code)}{chr(code)}1" for code in range(128)]
    for text in texts:
        assert _TOKEN_ASCII.findall(text.encode()) == [token.encode() for token in _TOKEN.findall(text)]


def test_a_batch_gives_the_vectors_of_its_texts() -> None:
    encoder = fit_encoder("hashed_ngrams", TEXTS, SMALL)
    batch = encoder.encode_batch(TEXTS)
    for row, text in enumerate(TEXTS):
        np.testing.assert_array_equal(batch[row], encoder.encode(text))
    assert encoder.encode_batch(()).shape == (0, encoder.dimension)


def test_vectors_are_equal_in_processes_with_other_hash_seeds() -> None:
    program = (
        "from thinkroute.signals import fit_encoder; import hashlib;"
        f"e = fit_encoder('hashed_ngrams', {TEXTS!r}, {SMALL!r});"
        "print(hashlib.sha256(e.encode_batch(('a new text', 'x')).round(4).tobytes()).hexdigest())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1


def test_saved_state_gives_the_same_vectors() -> None:
    encoder = fit_encoder("hashed_ngrams", TEXTS, SMALL)
    again = restore_encoder(encoder.state())
    np.testing.assert_array_equal(encoder.encode("prove it"), again.encode("prove it"))


def test_texts_on_one_subject_are_nearer_than_texts_on_two() -> None:
    encoder = fit_encoder("hashed_ngrams", TEXTS, {**SMALL, "structure_weight": 0.0})
    french, german, sort = (encoder.encode(TEXTS[i]) for i in (4, 5, 0))
    assert french @ german > french @ sort


def test_what_every_text_shares_does_not_drown_what_differs() -> None:
    preamble = "You are given a question. Print only a single choice without explanation. " * 5
    texts = tuple(preamble + text for text in TEXTS)
    encoder = fit_encoder("hashed_ngrams", texts, {**SMALL, "structure_weight": 0.0})
    french, german, sort = (encoder.encode(texts[i]) for i in (4, 5, 0))
    assert french @ german > french @ sort


def test_only_head_and_tail_are_read_for_ngrams_but_structure_sees_all() -> None:
    settings_ = {**SMALL, "head_bytes": 32, "tail_bytes": 32}
    encoder = fit_encoder("hashed_ngrams", TEXTS, settings_)
    ends = "begin " * 10, "end " * 10
    one, two = encoder.encode(ends[0] + "a" * 500 + ends[1]), encoder.encode(ends[0] + "7" * 500 + ends[1])
    split = encoder.dimension - len(FEATURES)
    np.testing.assert_array_equal(one[:split], two[:split])
    assert not np.array_equal(one[split:], two[split:])


def test_one_text_is_enough_to_fit() -> None:
    assert np.isfinite(fit_encoder("hashed_ngrams", ("only",), SMALL).encode("other")).all()


def test_structure_counts_what_it_names() -> None:
    got = dict(zip(FEATURES, structure(b"Add 12 and 345, then 6.\nWhy? {x}"), strict=True))
    assert np.expm1(got["bytes"]) == pytest.approx(32)
    assert np.expm1(got["words"]) == pytest.approx(8)
    assert np.expm1(got["numbers"]) == pytest.approx(3)
    assert np.expm1(got["digit_bytes"]) == pytest.approx(6)
    assert np.expm1(got["clause_marks"]) == pytest.approx(1)
    assert np.expm1(got["code_marks"]) == pytest.approx(2)
    assert np.expm1(got["upper_case"]) == pytest.approx(2)
    assert got["digit_share"] == pytest.approx(6 / 32)


@pytest.mark.parametrize("wrong", [{"buckets": 1000}, {"components": -1}, {"colour": 3}])
def test_wrong_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        fit_encoder("hashed_ngrams", TEXTS, wrong)


def test_an_unknown_encoder_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="hashed_ngrams"):
        fit_encoder("bert", TEXTS)


def test_state_without_its_arrays_or_of_another_version_is_refused() -> None:
    state = fit_encoder("hashed_ngrams", TEXTS, SMALL).state()
    with pytest.raises(DataError, match="idf_B"):
        restore_encoder(EncoderState("hashed_ngrams", state.parameters))
    with pytest.raises(DataError, match="saved by version 1"):
        restore_encoder(EncoderState("hashed_ngrams", {**state.parameters, "version": 1}, state.arrays))
