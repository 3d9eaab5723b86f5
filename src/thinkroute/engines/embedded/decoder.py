"""One member's computation: a weightless ONNX graph filled from its safetensors, and the key/value cache.

Owns the ONNX Runtime session and the cache of one model. Rows are seats in the cache; which conversation sits where
is the scheduler's business. Weights are stored in bfloat16 and computed in float32. Never imports torch.
"""

from __future__ import annotations

import json
import math
import mmap
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import onnxruntime  # pyright: ignore[reportMissingTypeStubs]
import safetensors
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

_MOST_BOUND = 256
"""Prepared runs kept: one for each number of rows, and those of recent prompts."""
_runtime = cast("Any", onnxruntime)  # no type stubs exist


class _Tensor(TypedDict):
    """One entry of a deserialised safetensors file."""

    dtype: str
    shape: list[int]
    data: bytes


def read_weights(path: Path) -> dict[str, Floats]:
    """Tensors of a safetensors file as float32; bfloat16 is the upper half of a float32."""
    tensors: dict[str, Floats] = {}
    stored = cast("list[tuple[str, _Tensor]]", cast("Any", safetensors).deserialize(path.read_bytes()))
    for name, tensor in stored:
        raw, shape = tensor["data"], tensor["shape"]
        if tensor["dtype"] == "BF16":
            bits = np.frombuffer(raw, dtype=np.uint16).astype(np.uint32) << 16
            tensors[name] = bits.view(np.float32).reshape(shape)
        elif tensor["dtype"] == "F32":
            tensors[name] = np.frombuffer(raw, dtype=np.float32).reshape(shape)
        else:
            raise ValueError(f"{path}: tensor {name!r} has type {tensor['dtype']}; BF16 and F32 are read")
    return tensors


@dataclass(slots=True)
class _Bound:
    """A run prepared once for some seats: binding its tensors takes longer than computing a small step."""

    binding: Any
    length: int = 0
    """New tokens a row in the `ids` bound last."""


class Decoder:
    """Runs steps over consecutive seats of the cache.

    Not thread-safe: one worker owns it. A step over seats [first, first + B) leaves every other seat untouched.

    Args:
        directory: The member's weights, configuration and graph.
        seats: Rows that it has room for.
        twin: Another decoder of the same member whose weights it shares; each has its own cache and its own worker.
    """

    def __init__(self, directory: Path, *, seats: int, twin: Decoder | None = None) -> None:
        config = cast("dict[str, int]", json.loads((directory / "config.json").read_text(encoding="utf-8")))
        self.seats = seats
        self.positions = config["max_position_embeddings"]
        """Context window in tokens; the length of every seat."""
        self._directory = directory
        self.session: Any = (
            twin.session if twin else _open_session(directory, read_weights(directory / "model.safetensors"))
        )
        """The runtime over the weights; several decoders may run it at once."""
        if self.session.get_inputs()[1].name != "filled":
            raise ValueError(
                f"{directory / 'decoder.onnx'} was written by another version: "
                "write it again with thinkroute.fleet.graph.save_graph"
            )
        self._caches: list[str] = [output.name for output in self.session.get_outputs()[1:]]
        _, kv_heads, _, head_width = self.session.get_inputs()[-1].shape
        self._ids = np.zeros(seats * self.positions, dtype=np.int64)
        self._filled = np.zeros(seats, dtype=np.int32)
        self._longest = np.zeros((), dtype=np.int32)
        self._last = np.zeros(seats, dtype=np.int64)
        self.logits_BV = np.zeros((seats, config["vocab_size"]), dtype=np.float32)
        """Logits after the last token of every seat, as far as steps wrote them."""
        self._bound: dict[tuple[int, int], _Bound] = {}
        shape = (len(self._caches), seats, kv_heads, self.positions, head_width)
        self._cache = _untouched_zeros(shape)

    def load(self, weights: Mapping[str, Floats]) -> None:
        """Compute with these weights from the next step on. Keys and values in the cache remain those of the old ones.

        Args:
            weights: Every tensor of the member's checkpoint by its name, as float32.
        """
        self.session = _open_session(self._directory, weights)
        self._bound.clear()

    def read(self, seat: int, length: int) -> Floats:
        """A copy of the keys and values of a seat's first positions (caches, heads, length, width)."""
        return self._cache[:, seat, :, :length].copy()

    def write(self, seat: int, keys_values: Floats) -> None:
        """Put keys and values that were read before at the beginning of a seat."""
        self._cache[:, seat, :, : keys_values.shape[2]] = keys_values

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy one seat's first positions over another's."""
        self._cache[:, target, :, :length] = self._cache[:, source, :, :length]

    def step(self, first: int, ids_BT: Integers, start_B: Integers, last_B: Integers) -> Floats:
        """Append tokens to seats [first, first + B) and return the logits (B, vocabulary) after each row's last one.

        The logits are those seats' part of `logits_BV`, valid until the next step over them. Several tokens a row
        are taken in one run where all rows begin at 0, and row by row where they do not.

        Args:
            first: The first seat.
            ids_BT: Token ids, padded on the right with any valid id.
            start_B: How many tokens each row already holds.
            last_B: Index of each row's last real token in `ids_BT`.
        """
        rows, length = ids_BT.shape
        if rows == 1 or length == 1 or not start_B.any():
            self._run(first, ids_BT, start_B, last_B)
        else:
            for row in range(rows):
                one, real = slice(row, row + 1), int(last_B[row]) + 1
                self._run(first + row, ids_BT[one, :real], start_B[one], last_B[one])
        return self.logits_BV[first : first + rows]

    def _run(self, first: int, ids_BT: Integers, start_B: Integers, last_B: Integers) -> None:
        rows, length = ids_BT.shape
        bound = self._bound.get((first, rows)) or self._bind(first, rows)
        self._ids[: rows * length].reshape(rows, length)[:] = ids_BT
        self._filled[:rows] = start_B + (length - 1)
        self._longest[...] = start_B.max() + length
        self._last[:rows] = last_B
        if bound.length != length:
            bound.length = length
            bound.binding.bind_input("ids", "cpu", 0, np.int64, (rows, length), self._ids.ctypes.data)
        self.session.run_with_iobinding(bound.binding)

    def _bind(self, first: int, rows: int) -> _Bound:
        if len(self._bound) >= _MOST_BOUND:
            self._bound.clear()
        binding = self.session.io_binding()
        for name, value, shape in (
            ("filled", self._filled, (rows,)),
            ("longest", self._longest, ()),
            ("last", self._last, (rows, 1, 1)),
        ):
            binding.bind_input(name, "cpu", 0, value.dtype, shape, value.ctypes.data)
        logits = self.logits_BV[first : first + rows, None]
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        for name, cache in zip(self._caches, self._cache[:, first : first + rows], strict=True):
            # The same buffer on both sides: the graph then writes in place instead of copying the cache.
            binding.bind_input(f"past_{name}", "cpu", 0, np.float32, cache.shape, cache.ctypes.data)
            binding.bind_output(name, "cpu", 0, np.float32, cache.shape, cache.ctypes.data)
        self._bound[first, rows] = bound = _Bound(binding)
        return bound


def _untouched_zeros(shape: tuple[int, ...]) -> Floats:
    """Zeros whose pages take no memory until a row reaches them, so that every seat can have its full length.

    numpy asks the kernel for huge pages, and the first tokens of a few rows would take all of them: with ten members 250 MB.
    """
    if sys.platform == "win32":
        return np.zeros(shape, dtype=np.float32)
    memory = mmap.mmap(-1, math.prod(shape) * 4, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if sys.platform == "linux":
        with suppress(OSError):  # a kernel that knows no huge pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype=np.float32).reshape(shape)


def _open_session(directory: Path, weights: Mapping[str, Floats]) -> Any:
    options = _runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    graph = (directory / "decoder.onnx").read_bytes()
    names: list[str] = json.loads((directory / "decoder.json").read_text(encoding="utf-8"))["initializers"]
    values = [
        np.ascontiguousarray(np.concatenate([weights[part] for part in name.split("+")])) for name in names
    ]
    options.add_external_initializers(
        names, [_runtime.OrtValue.ortvalue_from_numpy(value) for value in values]
    )
    return _runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
