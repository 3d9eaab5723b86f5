"""The members' computation as a weightless ONNX graph (opset 24), for the embedded engine.

Owns the graph only; the weights stay in `model.safetensors`, their one home. An initializer's name says how to fill
it: the names of the checkpoint's tensors, joined by `+`, concatenated along the first axis.

One run takes T new tokens for each of B rows, writes their keys and values into the cache at each row's own
position, and returns the logits after each row's last real token. Rows may have different lengths: tokens padded on
the right are written too, but no later token sees them before they are overwritten.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from thinkroute.fleet.architecture import NORM_EPSILON, ROPE_THETA, Architecture

_OPSET = 24
_IR_VERSION = 11


class _Graph:
    """Nodes and initializers as they accumulate; every method returns the name of a value."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._names: set[str] = set()

    def add(self, operator: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Append a node with one output."""
        output = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, name: str, values: object) -> str:
        """A small constant stored in the graph."""
        if name not in self._names:
            self._names.add(name)
            self.initializers.append(onnx.numpy_helper.from_array(np.asarray(values), name))
        return name

    def weight(self, names: Sequence[str], shape: Sequence[int]) -> str:
        """An initializer that the engine fills from the checkpoint."""
        name = "+".join(names)
        if name not in self._names:
            self._names.add(name)
            tensor = onnx.TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="model.safetensors")
            self.initializers.append(tensor)
        return name

    def linear(self, value: str, names: Sequence[str], shape: Sequence[int]) -> str:
        """`value @ weight.T` on (rows, features)."""
        return self.add("Gemm", [value, self.weight(names, shape)], transB=1)

    def norm(self, value: str, name: str, width: int) -> str:
        """Root-mean-square normalisation of the last axis."""
        return self.add("RMSNormalization", [value, self.weight([name], [width])], epsilon=NORM_EPSILON)


def _rotary_tables(sizes: Architecture) -> tuple[np.ndarray, np.ndarray]:
    frequency = ROPE_THETA ** -(np.arange(0, sizes.head_width, 2) / sizes.head_width)
    angle = np.outer(np.arange(sizes.positions), frequency)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def _positions(graph: _Graph, sizes: Architecture) -> tuple[str, str]:
    """Rotary positions (B, T) and the attention mask (B, 1, T, S) from the rows' starts."""
    zero, one = graph.constant("zero", np.int64(0)), graph.constant("one", np.int64(1))
    length = graph.add("Squeeze", [graph.add("Shape", ["ids"], start=1, end=2)])
    offsets = graph.add("Range", [zero, length, one])
    starts = graph.add("Unsqueeze", ["start", graph.constant("axis_1", [1])])
    positions = graph.add("Add", [starts, offsets])
    capacity = graph.add("Squeeze", [graph.add("Shape", ["past_key_0"], start=2, end=3)])
    seats = graph.add("Range", [zero, capacity, one])
    seen_by = graph.add("Unsqueeze", [positions, graph.constant("axes_1_3", [1, 3])])
    mask = graph.add("LessOrEqual", [seats, seen_by])
    return graph.add("Min", [positions, graph.constant("last_position", np.int64(sizes.positions - 1))]), mask


def _heads(graph: _Graph, value: str, count: int, sizes: Architecture, norm_name: str | None) -> str:
    """(B·T, count·D) to (B, count, T, D), normalised per head when a norm is named."""
    shape = graph.add(
        "Concat",
        ["ids_shape", graph.constant(f"heads_{count}", [count, sizes.head_width])],
        axis=0,
    )
    split = graph.add("Reshape", [value, shape])
    if norm_name:
        split = graph.norm(split, norm_name, sizes.head_width)
    return graph.add("Transpose", [split], perm=[0, 2, 1, 3])


def _attention(graph: _Graph, hidden: str, layer: int, sizes: Architecture, positions: str, mask: str) -> str:
    prefix = f"model.layers.{layer}.self_attn"
    query_width, kv_width = sizes.heads * sizes.head_width, sizes.kv_heads * sizes.head_width
    joint = graph.linear(
        hidden,
        [f"{prefix}.{part}_proj.weight" for part in "qkv"],
        [query_width + 2 * kv_width, sizes.width],
    )
    parts = [f"{part}_{layer}" for part in "qkv"]
    widths = graph.constant("qkv_widths", [query_width, kv_width, kv_width])
    graph.nodes.append(helper.make_node("Split", [joint, widths], parts, axis=1))
    rotary = [
        graph.constant("cos", _rotary_tables(sizes)[0]),
        graph.constant("sin", _rotary_tables(sizes)[1]),
    ]
    query = _heads(graph, parts[0], sizes.heads, sizes, f"{prefix}.q_norm.weight")
    key = _heads(graph, parts[1], sizes.kv_heads, sizes, f"{prefix}.k_norm.weight")
    value = _heads(graph, parts[2], sizes.kv_heads, sizes, None)
    query = graph.add("RotaryEmbedding", [query, *rotary, positions])
    key = graph.add("RotaryEmbedding", [key, *rotary, positions])
    keys = graph.add("TensorScatter", [f"past_key_{layer}", key, "start"], f"key_{layer}", axis=2)
    values = graph.add("TensorScatter", [f"past_value_{layer}", value, "start"], f"value_{layer}", axis=2)
    mixed = graph.add("Attention", [query, keys, values, mask])
    mixed = graph.add("Transpose", [mixed], perm=[0, 2, 1, 3])
    flat = graph.add("Reshape", [mixed, graph.constant("flat_query", [-1, query_width])])
    return graph.linear(flat, [f"{prefix}.o_proj.weight"], [sizes.width, query_width])


def _feed_forward(graph: _Graph, hidden: str, layer: int, sizes: Architecture) -> str:
    prefix = f"model.layers.{layer}.mlp"
    names = [f"{prefix}.gate_proj.weight", f"{prefix}.up_proj.weight"]
    joint = graph.linear(hidden, names, [2 * sizes.ff_width, sizes.width])
    gate, up = f"gate_{layer}", f"up_{layer}"
    graph.nodes.append(helper.make_node("Split", [joint], [gate, up], axis=1, num_outputs=2))
    gated = graph.add("Mul", [graph.add("Mul", [gate, graph.add("Sigmoid", [gate])]), up])
    return graph.linear(gated, [f"{prefix}.down_proj.weight"], [sizes.width, sizes.ff_width])


def _logits(graph: _Graph, hidden: str, embedding: str, sizes: Architecture) -> None:
    """Logits after each row's last real token."""
    shape = graph.add("Concat", ["ids_shape", graph.constant("width", [sizes.width])], axis=0)
    rows = graph.add("Reshape", [hidden, shape])
    last = graph.add("Unsqueeze", ["last", graph.constant("axis_1", [1])])
    chosen = graph.add("GatherND", [rows, last], batch_dims=1)
    normed = graph.norm(chosen, "model.norm.weight", sizes.width)
    graph.add("Gemm", [normed, embedding], "logits", transB=1)


def build_graph(sizes: Architecture) -> onnx.ModelProto:
    """The decoder of these sizes, checked, without weights."""
    graph = _Graph()
    embedding = graph.weight(["model.embed_tokens.weight"], [sizes.vocabulary, sizes.width])
    graph.add("Shape", ["ids"], "ids_shape")
    flat_ids = graph.add("Reshape", ["ids", graph.constant("flat", [-1])])
    hidden = graph.add("Gather", [embedding, flat_ids])
    positions, mask = _positions(graph, sizes)
    for layer in range(sizes.layers):
        prefix = f"model.layers.{layer}"
        normed = graph.norm(hidden, f"{prefix}.input_layernorm.weight", sizes.width)
        hidden = graph.add("Add", [hidden, _attention(graph, normed, layer, sizes, positions, mask)])
        normed = graph.norm(hidden, f"{prefix}.post_attention_layernorm.weight", sizes.width)
        hidden = graph.add("Add", [hidden, _feed_forward(graph, normed, layer, sizes)])
    _logits(graph, hidden, embedding, sizes)
    cache_shape = ["B", sizes.kv_heads, "S", sizes.head_width]
    caches = [f"{kind}_{layer}" for layer in range(sizes.layers) for kind in ("key", "value")]
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["B", "T"]),
        helper.make_tensor_value_info("start", TensorProto.INT64, ["B"]),
        helper.make_tensor_value_info("last", TensorProto.INT64, ["B"]),
        *(helper.make_tensor_value_info(f"past_{name}", TensorProto.FLOAT, cache_shape) for name in caches),
    ]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", sizes.vocabulary]),
        *(helper.make_tensor_value_info(name, TensorProto.FLOAT, cache_shape) for name in caches),
    ]
    proto = helper.make_graph(graph.nodes, "decoder", inputs, outputs, graph.initializers)
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)


def save_graph(sizes: Architecture, directory: Path) -> None:
    """Write `decoder.onnx` without weights, and `decoder.json` naming the initializers to fill."""
    model = build_graph(sizes)
    external = [
        tensor.name for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL
    ]
    (directory / "decoder.onnx").write_bytes(model.SerializeToString(deterministic=True))
    (directory / "decoder.json").write_text(json.dumps({"initializers": external}, indent=2) + "\n")
