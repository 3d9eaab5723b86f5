"""The graph is right for any sizes, not only for those of the shipped members: random weights against Transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from thinkroute.engines.embedded.decoder import Decoder
from thinkroute.fleet.architecture import Architecture
from thinkroute.fleet.graph import build_graph, save_graph

SIZES = {
    "one layer, one head": Architecture(32, 1, 1, 1, 16, 48, 70, 40),
    "every query head its own key": Architecture(32, 2, 2, 2, 32, 64, 70, 40),
    "four query heads on one key": Architecture(64, 2, 4, 1, 32, 96, 70, 40),
    "heads narrower than the unit": Architecture(48, 3, 4, 2, 8, 80, 70, 40),
    "heads between two units": Architecture(96, 4, 4, 2, 24, 144, 70, 40),
}


def reference(sizes: Architecture, directory: Path) -> Any:
    """A Transformers model with random weights, saved as a member is."""
    import torch
    import transformers
    from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

    generator = torch.Generator().manual_seed(0)
    config = sizes.huggingface_config(pad_id=0, eos_id=1)
    (directory / "config.json").write_text(json.dumps(config))
    library = cast("Any", transformers)
    model = library.Qwen3ForCausalLM(library.Qwen3Config(**{**config, "dtype": "float32"})).eval()
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    for name, tensor in state.items():  # norms other than 1, and projections large enough to matter
        spread = 0.3 if tensor.ndim == 1 else tensor.shape[-1] ** -0.5
        tensor.copy_(
            torch.randn(tensor.shape, generator=generator) * spread + float(name.endswith("norm.weight"))
        )
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, directory / "model.safetensors")
    save_graph(sizes, directory)
    return model


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_prompts_and_later_tokens_give_the_logits_of_transformers(
    sizes: Architecture, tmp_path: Path
) -> None:
    import torch

    model = reference(sizes, tmp_path)
    decoder = Decoder(tmp_path, seats=3)
    rng = np.random.default_rng(0)
    lengths, more = np.array([25, 9, 17]), 6
    ids_BT = rng.integers(0, sizes.vocabulary, (3, 25 + more))
    with torch.no_grad():
        logits = [
            model(torch.tensor(ids[: length + more])[None]).logits[0]
            for ids, length in zip(ids_BT, lengths, strict=True)
        ]

    def expected(places: np.ndarray) -> np.ndarray:
        return np.stack([row[place].numpy() for row, place in zip(logits, places, strict=True)])

    got = decoder.step(0, ids_BT[:, :25], np.zeros(3, dtype=np.int64), lengths - 1)
    np.testing.assert_allclose(got, expected(lengths - 1), atol=2e-4)
    for place in range(more - 2):
        tokens = ids_BT[np.arange(3), lengths + place][:, None]
        got = decoder.step(0, tokens, lengths + place, np.zeros(3, dtype=np.int64))
        np.testing.assert_allclose(got, expected(lengths + place), atol=2e-4)
    held = lengths + more - 2
    two = np.stack([ids[place : place + 2] for ids, place in zip(ids_BT, held, strict=True)])
    got = decoder.step(0, two, held, np.ones(3, dtype=np.int64))
    np.testing.assert_allclose(got, expected(held + 1), atol=2e-4)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_sizes_are_read_back_from_a_members_configuration(sizes: Architecture, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(sizes.huggingface_config(pad_id=0, eos_id=1)))
    assert Architecture.read(tmp_path / "config.json") == sizes


def test_the_graph_is_the_same_every_time_and_holds_no_weights() -> None:
    sizes = SIZES["heads between two units"]
    graph = build_graph(sizes).SerializeToString(deterministic=True)
    assert graph == build_graph(sizes).SerializeToString(deterministic=True)
    assert len(graph) < 60_000
