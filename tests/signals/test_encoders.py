"""Laws of every encoder that needs nothing but numpy."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkroute.errors import ConfigError, DataError
from thinkroute.signals import Encoder, EncoderState, fit_encoder, restore_encoder
from thinkroute.signals.base import Scalar
from thinkroute.signals.structure import FEATURES

TEXTS = (
    "Write a Python function that sorts a list.",
    "def f(x): return x  # what does this function do?",
    "Prove that the square root of two is irrational.",
    "What is the integral of $x^2$ over [0, 1]?",
    "Translate to French: the cat sat on the mat.",
    "Translate to German: the dog sat on the rug.",
)
SETTINGS: dict[str, dict[str, Scalar]] = {
    "hashed_ngrams": {"buckets": 512, "components": 5},
    "static": {},
    "blend": {"buckets": 512, "components": 5},
}
HOSTILE = {
    "empty": "",
    "blank": " \n\t ",
    "a megabyte": "lorem ipsum " * 90_000,
    "one word of a megabyte": "a" * 1_000_000,
    "surrogates": "\ud800\udfff lone halves \udc00",
    "zero bytes": "\x00\x01\x02 text \x00" * 50,
    "Chinese": "证明根号二是无理数。" * 40,
    "Arabic": "ما هي عاصمة مصر؟",
    "emoji": "🙂👩‍👩‍👧‍👦🏳️‍🌈" * 30,
    "combining marks": "a" + "\u0301" * 5000,
    "replacement characters": "\ufffd" * 3000,
    "right to left marks": "\u202e abc \u202c",
}


@pytest.fixture(scope="module", params=sorted(SETTINGS))
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return fit_encoder(request.param, TEXTS, SETTINGS[request.param])


@given(st.text())
@settings(max_examples=60)
def test_any_text_has_a_finite_vector_that_never_changes(encoder: Encoder, text: str) -> None:
    vector = encoder.encode(text)
    assert vector.shape == (encoder.dimension,)
    assert vector.dtype == np.float32
    assert np.isfinite(vector).all()
    np.testing.assert_array_equal(vector, encoder.encode(text))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_texts_have_finite_vectors_alone_and_in_a_batch(encoder: Encoder, text: str) -> None:
    vector = encoder.encode(text)
    assert np.isfinite(vector).all()
    np.testing.assert_array_equal(encoder.encode_batch(["other", text])[1], vector)


def test_a_batch_gives_the_vectors_of_its_texts(encoder: Encoder) -> None:
    batch = encoder.encode_batch(TEXTS)
    for row, text in enumerate(TEXTS):
        np.testing.assert_array_equal(batch[row], encoder.encode(text))
    assert encoder.encode_batch(()).shape == (0, encoder.dimension)


def test_saved_state_gives_the_same_vectors(encoder: Encoder) -> None:
    again = restore_encoder(encoder.state())
    assert again.dimension == encoder.dimension
    for text in (*TEXTS, "prove it", ""):
        np.testing.assert_array_equal(encoder.encode(text), again.encode(text))


def test_a_state_without_its_arrays_is_refused(encoder: Encoder) -> None:
    state = encoder.state()
    for name in state.arrays:
        fewer = {key: array for key, array in state.arrays.items() if key != name}
        with pytest.raises(DataError, match="fit again"):
            restore_encoder(EncoderState(state.name, state.parameters, fewer))


def test_unknown_and_impossible_settings_are_refused(encoder: Encoder) -> None:
    name = encoder.state().name
    for wrong in ({"colour": 3}, {"head_bytes": 0}, {"structure_weight": "much"}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            fit_encoder(name, TEXTS, wrong)


@pytest.mark.parametrize("texts", [(), ("only one",), ("same", "same")])
def test_few_texts_are_enough_to_fit(encoder: Encoder, texts: tuple[str, ...]) -> None:
    name = encoder.state().name
    assert np.isfinite(fit_encoder(name, texts, SETTINGS[name]).encode("other words")).all()


def test_texts_on_one_subject_are_nearer_than_texts_on_two(encoder: Encoder) -> None:
    name = encoder.state().name
    plain = fit_encoder(name, TEXTS, {**SETTINGS[name], "structure_weight": 0.0})
    french, german, sort = (plain.encode(TEXTS[place]) for place in (4, 5, 0))
    assert french @ german > french @ sort


def test_what_every_text_shares_does_not_drown_what_differs(encoder: Encoder) -> None:
    name = encoder.state().name
    preamble = "You are given a question. Print only a single choice without explanation. " * 5
    texts = tuple(preamble + text for text in TEXTS)
    plain = fit_encoder(name, texts, {**SETTINGS[name], "structure_weight": 0.0})
    french, german, sort = (plain.encode(texts[place]) for place in (4, 5, 0))
    assert french @ german > french @ sort


def test_the_cut_bounds_the_time_of_reading(encoder: Encoder) -> None:
    """Two hundred times the text may not take six times as long; without the cut it takes about two hundred."""
    short, long = ("the quick brown fox, twice: 12 jumps! " * times for times in (100, 20_000))
    assert quickest(encoder, long) < 6 * quickest(encoder, short)


def quickest(encoder: Encoder, text: str) -> float:
    times: list[float] = []
    for _ in range(7):
        start = time.perf_counter()
        encoder.encode(text)
        times.append(time.perf_counter() - start)
    return min(times)


def test_vectors_are_equal_in_processes_with_other_hash_seeds() -> None:
    program = (
        "from thinkroute.signals import fit_encoder; import hashlib;"
        f"made = [fit_encoder(name, {TEXTS!r}, given) for name, given in {SETTINGS!r}.items()];"
        "print([hashlib.sha256(e.encode_batch(('a new text', 'x')).round(4).tobytes()).hexdigest() for e in made])"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1


def test_structure_stands_once_in_the_blend() -> None:
    blend, static = (fit_encoder(name, TEXTS, SETTINGS[name]) for name in ("blend", "static"))
    ngrams = fit_encoder("hashed_ngrams", TEXTS, SETTINGS["hashed_ngrams"])
    assert blend.dimension == ngrams.dimension + static.dimension - len(FEATURES)
    np.testing.assert_array_equal(blend.encode("a cat")[: ngrams.dimension], ngrams.encode("a cat"))


def test_the_weight_of_the_blend_scales_the_topic_alone() -> None:
    one, two = (fit_encoder("blend", TEXTS, {**SETTINGS["blend"], "static_weight": w}) for w in (1.0, 2.0))
    a, b = one.encode("a cat on the mat"), two.encode("a cat on the mat")
    words = fit_encoder("hashed_ngrams", TEXTS, SETTINGS["hashed_ngrams"]).dimension
    np.testing.assert_array_equal(a[:words], b[:words])
    np.testing.assert_allclose(2 * a[words:], b[words:], rtol=1e-6)


def test_static_vectors_of_another_table_are_refused() -> None:
    state = fit_encoder("static", TEXTS).state()
    with pytest.raises(DataError, match="another version or table"):
        restore_encoder(EncoderState("static", {**state.parameters, "table_sha256": "0" * 64}, state.arrays))
