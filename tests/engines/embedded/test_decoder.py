"""One step of one model: seats are independent, padding is invisible, keys and values can be carried elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
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
    return decoder.step(0, ids[None], integers(0), integers(len(ids) - 1))[0].copy()


def test_tokens_given_one_by_one_give_the_logits_of_tokens_given_at_once() -> None:
    decoder = Decoder(directory("student"), seats=1)
    logits = decoder.step(0, IDS[None, :20], integers(0), integers(19))
    for position in range(20, 200):
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


def test_rows_that_hold_different_numbers_of_tokens_take_several_more_at_once() -> None:
    decoder = Decoder(directory("student"), seats=4)
    held, added = (30, 0, 7), (5, 20, 1)
    for seat, count in enumerate(held, 1):
        if count:
            decoder.step(seat, IDS[None, seat : seat + count], integers(0), integers(count - 1))
    padded = np.zeros((3, max(added)), dtype=np.int64)
    for row, (count, more) in enumerate(zip(held, added, strict=True)):
        padded[row, :more] = IDS[row + 1 + count : row + 1 + count + more]
    logits = decoder.step(1, padded, integers(*held), integers(*(more - 1 for more in added)))
    for row, (count, more) in enumerate(zip(held, added, strict=True)):
        np.testing.assert_allclose(logits[row], at_once(IDS[row + 1 : row + 1 + count + more]), atol=1e-4)


def test_a_copied_row_goes_on_as_before_and_a_shrunken_batch_leaves_it_alone() -> None:
    decoder = Decoder(directory("student"), seats=3)
    rows = np.stack([IDS[:10], IDS[50:60], IDS[100:110]])
    decoder.step(0, rows, integers(0, 0, 0), integers(9, 9, 9))
    decoder.copy(2, 0, 10)
    logits = decoder.step(0, integers(IDS[110], IDS[60])[:, None], integers(10, 10), integers(0, 0))
    np.testing.assert_allclose(logits[0], at_once(IDS[100:111]), atol=1e-4)
    np.testing.assert_allclose(logits[1], at_once(IDS[50:61]), atol=1e-4)


def test_keys_and_values_that_were_read_can_be_written_to_any_seat_in_part() -> None:
    decoder = Decoder(directory("student"), seats=3)
    decoder.step(2, IDS[None, :40], integers(0), integers(39))
    known = decoder.read(2, 40)
    decoder.step(2, IDS[None, 100:140], integers(0), integers(39))  # what was read is a copy
    decoder.write(0, known[:, :, :25])
    logits = decoder.step(0, IDS[None, 25:60], integers(25), integers(34))
    np.testing.assert_allclose(logits[0], at_once(IDS[:60]), atol=1e-4)


def test_many_different_shapes_can_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than are kept prepared."""
    monkeypatch.setattr("thinkroute.engines.embedded.decoder._MOST_BOUND", 3)
    decoder = Decoder(directory("student"), seats=8)
    for first in range(8):
        for rows in range(1, 9 - first):
            ids_BT = np.repeat(IDS[None, : 3 + rows], rows, axis=0)
            start_B = np.zeros(rows, dtype=np.int64)
            logits = decoder.step(first, ids_BT, start_B, start_B + 2 + rows)
            np.testing.assert_allclose(logits, np.stack([at_once(IDS[: 3 + rows])] * rows), atol=1e-4)


def test_a_graph_of_another_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    import onnx

    shutil.copytree(directory("student"), tmp_path, dirs_exist_ok=True)
    model = onnx.ModelProto.FromString((tmp_path / "decoder.onnx").read_bytes())
    for value in (*model.graph.input, *model.graph.node):
        if isinstance(value, onnx.NodeProto):
            value.input[:] = ["start" if name == "filled" else name for name in value.input]
        elif value.name == "filled":
            value.name = "start"
    (tmp_path / "decoder.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r"another version.*save_graph"):
        Decoder(tmp_path, seats=1)


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


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of the process")
def test_seats_that_no_row_reached_take_no_memory() -> None:
    """64 rows of one token fill 4 MB of a cache that has room for 134 MB."""
    decoder = Decoder(directory("base"), seats=256)

    def resident_mb() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    before = resident_mb()
    nothing = np.zeros(64, dtype=np.int64)
    decoder.step(0, nothing[:, None], nothing, nothing)
    assert resident_mb() - before < 16
