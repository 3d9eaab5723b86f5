"""One step of one model: seats are independent, the cache grows, padding is invisible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file  # pyright: ignore[reportUnknownVariableType]

from thinkroute.engines.embedded.decoder import Decoder, Floats, read_weights
from thinkroute.fleet.shipped import directory

RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 372, 200)


def integers(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def at_once(ids: NDArray[np.int64]) -> Floats:
    decoder = Decoder(directory("student"), seats=1)
    return decoder.step(0, ids[None], integers(0), integers(len(ids) - 1))[0]


def test_tokens_given_one_by_one_give_the_logits_of_tokens_given_at_once() -> None:
    decoder = Decoder(directory("student"), seats=1)
    logits = decoder.step(0, IDS[None, :20], integers(0), integers(19))
    for position in range(20, 200):  # the cache grows several times
        logits = decoder.step(0, IDS[None, position : position + 1], integers(position), integers(0))
    np.testing.assert_allclose(logits[0], at_once(IDS), atol=1e-4)


def test_rows_of_different_lengths_do_not_see_padding_or_each_other() -> None:
    decoder = Decoder(directory("student"), seats=4)
    padded = np.zeros((3, 50), dtype=np.int64)
    lengths = (50, 7, 23)
    for row, length in enumerate(lengths):
        padded[row, :length] = IDS[row : row + length]
    logits = decoder.step(1, padded, integers(0, 0, 0), integers(*(length - 1 for length in lengths)))
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(logits[row], at_once(IDS[row : row + length]), atol=1e-4)


def test_a_moved_row_goes_on_as_before_and_a_shrunken_batch_leaves_it_alone() -> None:
    decoder = Decoder(directory("student"), seats=3)
    rows = np.stack([IDS[:10], IDS[50:60], IDS[100:110]])
    decoder.step(0, rows, integers(0, 0, 0), integers(9, 9, 9))
    decoder.move(2, 0)
    logits = decoder.step(0, integers(IDS[110], IDS[60])[:, None], integers(10, 10), integers(0, 0))
    np.testing.assert_allclose(logits[0], at_once(IDS[100:111]), atol=1e-4)
    np.testing.assert_allclose(logits[1], at_once(IDS[50:61]), atol=1e-4)


def test_a_reset_decoder_starts_afresh() -> None:
    decoder = Decoder(directory("student"), seats=1)
    first = decoder.step(0, IDS[None, :150], integers(0), integers(149))
    decoder.reset()
    again = decoder.step(0, IDS[None, :150], integers(0), integers(149))
    np.testing.assert_array_equal(first, again)


def test_weights_are_read_exactly_from_both_stored_types(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file as save_torch  # pyright: ignore[reportUnknownVariableType]

    halves = torch.randn(3, 5).to(torch.bfloat16)
    save_torch({"half": halves, "full": torch.ones(2)}, tmp_path / "weights")
    read = read_weights(tmp_path / "weights")
    np.testing.assert_array_equal(read["half"], halves.float().numpy())
    np.testing.assert_array_equal(read["full"], np.ones(2, dtype=np.float32))


def test_weights_of_another_type_are_refused(tmp_path: Path) -> None:
    save_file({"odd": np.ones(2, dtype=np.float16)}, tmp_path / "weights")
    with pytest.raises(ValueError, match="'odd' has type F16"):
        read_weights(tmp_path / "weights")
