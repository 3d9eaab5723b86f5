"""The int8 encoder: it computes what the model computes, keeps the encoder's laws, and refuses what it cannot read."""

from pathlib import Path

import numpy as np
import pytest
from tests.signals.tiny_bert import write_tiny_bert

from thinkroute.errors import ConfigError, DataError
from thinkroute.signals import Encoder, fit_encoder, restore_encoder
from thinkroute.signals.base import Scalar
from thinkroute.signals.structure import ScaledStructure

TEXTS = ("The cat sat on the mat.", "Prove that x is 2, dogs?", "", "x", "the cats " * 40)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_tiny_bert(folder)
    return folder


@pytest.fixture(scope="module")
def exported(model: Path) -> Path:
    pytest.importorskip("onnx")
    from thinkroute.signals.minilm_export import export

    folder = model / "exported"
    export(model, folder)
    return folder


@pytest.fixture(scope="module")
def encoder(exported: Path) -> Encoder:
    return fit_encoder("minilm", (), {"path": str(exported), "most_tokens": 32, "structure_weight": 0})


def test_int8_vectors_lie_close_to_the_model_itself(model: Path, encoder: Encoder) -> None:
    reference = fit_encoder("huggingface", (), {"model": str(model), "most_tokens": 32})
    texts = [text for text in TEXTS if len(text) < 100]
    cosine = (encoder.encode_batch(texts) * reference.encode_batch(texts)).sum(axis=1)
    assert (cosine > 0.98).all()
    # The vectors must also differ from one another by more than the rounding, or closeness would mean nothing.
    apart = encoder.encode_batch(texts) @ reference.encode_batch(texts).T
    assert apart[~np.eye(len(texts), dtype=np.bool_)].max() < 0.97


def test_every_vector_has_unit_length_and_the_models_dimension(encoder: Encoder) -> None:
    batch = encoder.encode_batch(TEXTS)
    assert batch.shape == (len(TEXTS), encoder.dimension) == (len(TEXTS), 32)
    np.testing.assert_allclose(np.linalg.norm(batch, axis=1), 1.0, rtol=1e-5)


def test_a_neighbour_in_the_batch_changes_nothing(encoder: Encoder) -> None:
    batch = encoder.encode_batch(TEXTS)
    for row, text in enumerate(TEXTS):
        np.testing.assert_array_equal(batch[row], encoder.encode(text))


def test_of_a_long_text_head_and_tail_are_read(encoder: Encoder) -> None:
    ends = "the cat " * 20, " the dog" * 20
    middle = "prove " * 1000
    np.testing.assert_array_equal(
        encoder.encode(ends[0] + middle + ends[1]), encoder.encode(ends[0] + "x " + ends[1])
    )


def test_saved_state_gives_the_same_vectors(encoder: Encoder) -> None:
    again = restore_encoder(encoder.state())
    np.testing.assert_array_equal(again.encode("the cat"), encoder.encode("the cat"))


def test_structure_stands_behind_the_models_vector_and_is_saved(exported: Path, encoder: Encoder) -> None:
    both = fit_encoder("minilm", TEXTS, {"path": str(exported), "most_tokens": 32})
    scaled = ScaledStructure(ScaledStructure.fit([text.encode() for text in TEXTS]), 0.2)
    wanted = [np.concatenate((encoder.encode(text), scaled.of(text.encode()))) for text in TEXTS]
    assert both.dimension == len(wanted[0])
    np.testing.assert_array_equal(both.encode_batch(TEXTS), wanted)
    state = both.state()
    np.testing.assert_array_equal(restore_encoder(state).encode_batch(TEXTS), wanted)
    with pytest.raises(DataError, match="fit again"):
        restore_encoder(type(state)(state.name, state.parameters))


def test_another_model_in_the_folder_is_refused_on_loading(
    exported: Path, encoder: Encoder, tmp_path: Path
) -> None:
    state = encoder.state()
    (tmp_path / "vocab.txt").write_bytes((exported / "vocab.txt").read_bytes())
    (tmp_path / "model.onnx").write_bytes((exported / "model.onnx").read_bytes() + b"\0")
    moved = type(state)(state.name, {**state.parameters, "path": str(tmp_path)})
    with pytest.raises(DataError, match="another model"):
        restore_encoder(moved)


def test_a_file_that_is_no_model_is_refused(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes((exported / "vocab.txt").read_bytes())
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(DataError, match=r"model\.onnx"):
        fit_encoder("minilm", (), {"path": str(tmp_path)})


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"path": "/no/such/folder"},
        {"path": "x", "most_tokens": 2},
        {"path": "x", "colour": 1},
        {"path": "x", "structure_weight": -1},
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Scalar]) -> None:
    with pytest.raises(ConfigError, match="minilm"):
        fit_encoder("minilm", (), settings)


def test_only_a_bert_with_all_its_tensors_is_exported(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from thinkroute.signals.minilm_export import export

    with pytest.raises(ConfigError, match=r"model\.safetensors is missing"):
        export(tmp_path, tmp_path / "out")
    for name in ("model.safetensors", "vocab.txt"):
        (tmp_path / name).write_bytes((model / name).read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(DataError, match="gpt2"):
        export(tmp_path, tmp_path / "out")
