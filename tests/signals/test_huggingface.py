"""Any Hugging Face encoder: pooling as named, the encoder's laws, and clear refusals."""

import numpy as np
import pytest
from tests.signals.tiny_bert import write_tiny_bert

from thinkroute.errors import ConfigError
from thinkroute.signals import fit_encoder, restore_encoder
from thinkroute.signals.base import Scalar

TEXTS = ("The cat sat on the mat.", "prove that x is 2", "", "x", "\ud800 \x00 dog", "the dog " * 500)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    write_tiny_bert(folder)
    return str(folder)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_the_models_own_pooled_as_named(model: str, pooling: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    inputs = transformers.AutoTokenizer.from_pretrained(model)(TEXTS[0], return_tensors="pt")
    with torch.inference_mode():
        hidden = transformers.AutoModel.from_pretrained(model).eval()(**inputs).last_hidden_state[0].numpy()
    expected = hidden.mean(axis=0) if pooling == "mean" else hidden[0]
    got = fit_encoder("huggingface", (), {"model": model, "pooling": pooling}).encode(TEXTS[0])
    np.testing.assert_allclose(got, expected / np.linalg.norm(expected), atol=1e-5)


def test_a_batch_gives_the_vectors_of_its_texts_up_to_rounding(model: str) -> None:
    encoder = fit_encoder("huggingface", (), {"model": model, "most_tokens": 60, "batch_size": 2})
    batch = encoder.encode_batch(TEXTS)
    assert batch.dtype == np.float32
    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(batch[row], encoder.encode(text), atol=1e-5)
    assert encoder.encode_batch(()).shape == (0, encoder.dimension)


def test_bfloat16_lies_close_to_float32(model: str) -> None:
    exact, rounded = (
        fit_encoder("huggingface", (), {"model": model, "precision": precision})
        for precision in ("float32", "bfloat16")
    )
    assert exact.encode(TEXTS[0]) @ rounded.encode(TEXTS[0]) > 0.99


def test_saved_state_gives_the_same_vectors(model: str) -> None:
    encoder = fit_encoder("huggingface", (), {"model": model})
    np.testing.assert_array_equal(
        restore_encoder(encoder.state()).encode("the cat"), encoder.encode("the cat")
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "model is not set"),
        ({"model": "/no/such/folder"}, "is not a folder: give one with config.json"),
        ({"model": "m", "pooling": "max"}, "pooling='max'.*mean, cls"),
        ({"model": "m", "precision": "int4"}, "precision='int4'.*bfloat16"),
        ({"model": "m", "batch_size": 0}, "batch_size"),
        ({"model": "m", "colour": 1}, "no setting 'colour'"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Scalar], message: str) -> None:
    pytest.importorskip("torch")
    with pytest.raises(ConfigError, match=message):
        fit_encoder("huggingface", (), settings)


def test_a_missing_library_names_the_extra_that_brings_it() -> None:
    from thinkroute.signals.extras import optional

    with pytest.raises(ConfigError, match=r"thinkroute\[train\]"):
        optional("no_such_library", extra="train")
