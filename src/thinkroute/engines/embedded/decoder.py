"""One member's computation: a weightless ONNX graph filled from its safetensors, and the key/value cache.

Owns the ONNX Runtime session and the cache of one model. Rows are seats in the cache; which conversation sits where
is the scheduler's business. Weights are stored in bfloat16 and computed in float32. Never imports torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
import onnxruntime  # pyright: ignore[reportMissingTypeStubs]
import safetensors
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

_CAPACITY_STEP = 32
"""Positions by which the cache grows: attention reads all of it, so a tight one is faster than a roomy one."""
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


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the cache and the limits need of `config.json`."""

    layers: int
    kv_heads: int
    head_width: int
    vocabulary: int
    positions: int

    @classmethod
    def read(cls, path: Path) -> Sizes:
        """Read a Hugging Face `config.json`."""
        raw = cast("dict[str, int]", json.loads(path.read_text(encoding="utf-8")))
        return cls(
            raw["num_hidden_layers"],
            raw["num_key_value_heads"],
            raw["head_dim"],
            raw["vocab_size"],
            raw["max_position_embeddings"],
        )


class Decoder:
    """Runs steps over the first B seats of the cache.

    Not thread-safe: one worker owns it. A step over seats [first, first + B) leaves every other seat untouched.
    """

    def __init__(self, directory: Path, *, seats: int) -> None:
        self.sizes = Sizes.read(directory / "config.json")
        self.seats = seats
        self._session: Any = _open_session(directory)
        self._capacity = 0
        self._cache: list[Floats] = []
        self.reset()

    def reset(self) -> None:
        """Forget everything and return to the small cache."""
        if self._capacity != _CAPACITY_STEP:
            self._capacity = _CAPACITY_STEP
            self._cache = [self._zeros() for _ in range(2 * self.sizes.layers)]

    def _zeros(self) -> Floats:
        shape = (self.seats, self.sizes.kv_heads, self._capacity, self.sizes.head_width)
        return np.zeros(shape, dtype=np.float32)

    def _ensure_capacity(self, length: int) -> None:
        """Make room for `length` positions. Padded positions may exceed the context window, so capacity may too."""
        if length <= self._capacity:
            return
        held = self._capacity
        self._capacity = -(-length // _CAPACITY_STEP) * _CAPACITY_STEP
        for index, old in enumerate(self._cache):
            self._cache[index] = self._zeros()
            self._cache[index][:, :, :held] = old

    def move(self, source: int, target: int) -> None:
        """Copy one seat's cache over another's."""
        for cache in self._cache:
            cache[target] = cache[source]

    def step(self, first: int, ids_BT: Integers, start_B: Integers, last_B: Integers) -> Floats:
        """Append tokens to seats [first, first + B) and return the logits (B, vocabulary) after each row's last one.

        Args:
            first: The first seat.
            ids_BT: Token ids, padded on the right with any valid id.
            start_B: How many tokens each row already holds.
            last_B: Index of each row's last real token in `ids_BT`.
        """
        rows, length = ids_BT.shape
        self._ensure_capacity(int(start_B.max()) + length)
        binding = self._session.io_binding()
        for name, value in (("ids", ids_BT), ("start", start_B), ("last", last_B)):
            binding.bind_input(name, "cpu", 0, np.int64, value.shape, value.ctypes.data)
        logits = np.empty((rows, self.sizes.vocabulary), dtype=np.float32)
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        shape = (rows, *self._cache[0].shape[1:])
        for index, cache in enumerate(self._cache):
            name = f"{'value' if index % 2 else 'key'}_{index // 2}"
            address = cache.ctypes.data + first * cache.strides[0]
            binding.bind_input(f"past_{name}", "cpu", 0, np.float32, shape, address)
            # The same buffer on both sides: the graph then writes in place instead of copying the cache.
            binding.bind_output(name, "cpu", 0, np.float32, shape, address)
        self._session.run_with_iobinding(binding)
        return logits


def _open_session(directory: Path) -> Any:
    options = _runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    weights = read_weights(directory / "model.safetensors")
    graph = (directory / "decoder.onnx").read_bytes()
    names: list[str] = json.loads((directory / "decoder.json").read_text(encoding="utf-8"))["initializers"]
    values = [
        np.ascontiguousarray(np.concatenate([weights[part] for part in name.split("+")])) for name in names
    ]
    options.add_external_initializers(
        names, [_runtime.OrtValue.ortvalue_from_numpy(value) for value in values]
    )
    return _runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
