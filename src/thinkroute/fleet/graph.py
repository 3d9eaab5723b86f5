"""The members' computation as a weightless ONNX graph, for the embedded engine.

Owns the graph only; the weights stay in `model.safetensors`, their one home. An initializer's name says how to fill
it: the names of the checkpoint's tensors, joined by `+`, concatenated along the first axis.

One run takes T new tokens for each of B rows, writes their keys and values into the cache at each row's own
position, and returns the logits after each row's last real token. Rows may have different lengths: tokens padded on
the right are written too, but no later token sees them before they are overwritten.

Attention is ONNX Runtime's `GroupQueryAttention`: it reads only the positions a row really holds, where the standard
operator reads the whole cache. It asks for head widths in multiples of 16 (narrower heads are padded with zeros), and
takes several new tokens a row either from position 0 on, or for a single row. Two of its inputs only choose the faster
of its kernels, by up to a sixth for contexts like ours: queries scaled beforehand, and an attention sink of no weight.
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
_RUNTIME_DOMAIN = "com.microsoft"
_HEAD_UNIT = 16
_NO_WEIGHT = -1e30
"""As a logit: its exponential is 0 beside any other."""


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

    def linear(self, value: str, names: Sequence[str], shape: Sequence[int], output: str = "") -> str:
        """`value @ weight.T`; the runtime transposes and packs the weight once, when it loads the graph."""
        turned = "+".join(names) + ".T"
        if turned not in self._names:
            self._names.add(turned)
            self.add("Transpose", [self.weight(names, shape)], turned, perm=[1, 0])
        return self.add("MatMul", [value, turned], output)

    def norm(self, value: str, name: str, width: int, scale: float = 1.0) -> str:
        """Root-mean-square normalisation of the last axis, and what it is multiplied by besides the weight."""
        weight = self.weight([name], [width])
        if scale != 1.0:
            weight = self.add("Mul", [weight, self.constant(f"scale_{scale}", np.float32(scale))])
        return self.add("RMSNormalization", [value, weight], epsilon=NORM_EPSILON)


def _padded(head_width: int) -> int:
    """The head width of the cache."""
    return -(-head_width // _HEAD_UNIT) * _HEAD_UNIT


def _rotary_tables(sizes: Architecture) -> tuple[np.ndarray, np.ndarray]:
    frequency = ROPE_THETA ** -(np.arange(0, sizes.head_width, 2) / sizes.head_width)
    angle = np.outer(np.arange(sizes.positions), frequency)
    surplus = (_padded(sizes.head_width) - sizes.head_width) // 2
    angle = np.pad(angle, ((0, 0), (0, surplus)))
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def _heads(
    graph: _Graph, value: str, count: int, sizes: Architecture, norm_name: str | None, scale: float = 1.0
) -> str:
    """(B, T, count·D) to (B, T, count·padded D), normalised per head when a norm is named."""
    surplus = (_padded(sizes.head_width) - sizes.head_width) // 2
    if norm_name:
        shape = graph.constant(f"split_{count}", [0, 0, count, sizes.head_width])
        value = graph.norm(graph.add("Reshape", [value, shape]), norm_name, sizes.head_width, scale)
    if surplus:
        # Rotation pairs the two halves of a head, so each half is padded on its own.
        halves = graph.constant(f"halves_{count}", [0, 0, 2 * count, sizes.head_width // 2])
        pads = graph.constant("pads", [0, 0, 0, 0, 0, 0, 0, surplus])
        value = graph.add("Pad", [graph.add("Reshape", [value, halves]), pads])
    if norm_name or surplus:
        joined = graph.constant(f"join_{count}", [0, 0, count * _padded(sizes.head_width)])
        value = graph.add("Reshape", [value, joined])
    return value


def _unpadded(graph: _Graph, attended: str, sizes: Architecture) -> str:
    """(…, heads·padded D) to (…, heads·D)."""
    if _padded(sizes.head_width) == sizes.head_width:
        return attended
    halves = [0, -1, 2 * sizes.heads, _padded(sizes.head_width) // 2]
    split = graph.add("Reshape", [attended, graph.constant("attended_halves", halves)])
    ends = [graph.constant(f"at_{end}", [end]) for end in (0, sizes.head_width // 2, 3)]
    joined = graph.constant("attended_join", [0, -1, sizes.heads * sizes.head_width])
    return graph.add("Reshape", [graph.add("Slice", [split, *ends]), joined])


def _projections(graph: _Graph, hidden: str, layer: int, sizes: Architecture) -> list[str]:
    """Queries, keys and values as attention takes them, before rotation."""
    prefix = f"model.layers.{layer}"
    normed = graph.norm(hidden, f"{prefix}.input_layernorm.weight", sizes.width)
    query_width, kv_width = sizes.heads * sizes.head_width, sizes.kv_heads * sizes.head_width
    joint = graph.linear(
        normed,
        [f"{prefix}.self_attn.{part}_proj.weight" for part in "qkv"],
        [query_width + 2 * kv_width, sizes.width],
    )
    parts = [f"{part}_{layer}" for part in "qkv"]
    widths = graph.constant("qkv_widths", [query_width, kv_width, kv_width])
    graph.nodes.append(helper.make_node("Split", [joint, widths], parts, axis=2))
    return [
        _heads(
            graph, parts[0], sizes.heads, sizes, f"{prefix}.self_attn.q_norm.weight", sizes.head_width**-0.5
        ),
        _heads(graph, parts[1], sizes.kv_heads, sizes, f"{prefix}.self_attn.k_norm.weight"),
        _heads(graph, parts[2], sizes.kv_heads, sizes, None),
    ]


def _attention(graph: _Graph, projections: Sequence[str], layer: int, sizes: Architecture) -> str:
    """What every token reads from the cache, (B, T, heads·padded D)."""
    cos, sin = _rotary_tables(sizes)
    tables = [graph.constant("cos", cos), graph.constant("sin", sin)]
    sink = graph.constant("sink", np.full(sizes.heads, _NO_WEIGHT, np.float32))
    node = helper.make_node(
        "GroupQueryAttention",
        [
            *projections,
            f"past_key_{layer}",
            f"past_value_{layer}",
            "filled",
            "longest",
            *tables,
            "",
            "",
            sink,
        ],
        [f"attended_{layer}", f"key_{layer}", f"value_{layer}"],
        domain=_RUNTIME_DOMAIN,
        num_heads=sizes.heads,
        kv_num_heads=sizes.kv_heads,
        scale=1.0,
        do_rotary=1,
    )
    graph.nodes.append(node)
    return f"attended_{layer}"


def _feed_forward(graph: _Graph, hidden: str, layer: int, sizes: Architecture) -> str:
    prefix = f"model.layers.{layer}.mlp"
    names = [f"{prefix}.gate_proj.weight", f"{prefix}.up_proj.weight"]
    joint = graph.linear(hidden, names, [2 * sizes.ff_width, sizes.width])
    gate, up = f"gate_{layer}", f"up_{layer}"
    graph.nodes.append(helper.make_node("Split", [joint], [gate, up], axis=2, num_outputs=2))
    gated = graph.add("Mul", [graph.add("Mul", [gate, graph.add("Sigmoid", [gate])]), up])
    return graph.linear(gated, [f"{prefix}.down_proj.weight"], [sizes.width, sizes.ff_width])


def _layer(graph: _Graph, hidden: str, projections: Sequence[str], layer: int, sizes: Architecture) -> str:
    """One block. The last one goes on with each row's last token only: nothing else is asked for."""
    attended = _attention(graph, projections, layer, sizes)
    if layer == sizes.layers - 1:
        attended, hidden = (
            graph.add("GatherND", [value, "last"], batch_dims=1) for value in (attended, hidden)
        )
    prefix = f"model.layers.{layer}"
    projection, shape = f"{prefix}.self_attn.o_proj.weight", [sizes.width, sizes.heads * sizes.head_width]
    mixed = graph.linear(_unpadded(graph, attended, sizes), [projection], shape)
    hidden = graph.add("Add", [hidden, mixed])
    normed = graph.norm(hidden, f"{prefix}.post_attention_layernorm.weight", sizes.width)
    return graph.add("Add", [hidden, _feed_forward(graph, normed, layer, sizes)])


def _first_projections(graph: _Graph, table: str, sizes: Architecture) -> list[str]:
    """The first layer's projections depend on the token alone, so they are looked up.

    The runtime computes their tables once, when it loads the graph.
    """
    tokens = graph.add("Unsqueeze", [table, graph.constant("axis_0", [0])])
    tables = _projections(graph, tokens, 0, sizes)
    axis = graph.constant("axis_0", [0])
    return [graph.add("Gather", [graph.add("Squeeze", [part, axis]), "ids"]) for part in tables]


def build_graph(sizes: Architecture) -> onnx.ModelProto:
    """The decoder of these sizes, without weights.

    Inputs: `ids` (B, T); `filled` (B), the last position each row holds afterwards; `longest`, the largest of them
    plus one; `last` (B, 1, 1), the index in `ids` of each row's last real token; the caches, bound in place.
    """
    graph = _Graph()
    embedding = ["model.embed_tokens.weight"]
    table_shape = [sizes.vocabulary, sizes.width]
    table = graph.weight(embedding, table_shape)
    hidden = graph.add("Gather", [table, "ids"])
    for layer in range(sizes.layers):
        projections = (
            _projections(graph, hidden, layer, sizes) if layer else _first_projections(graph, table, sizes)
        )
        hidden = _layer(graph, hidden, projections, layer, sizes)
    normed = graph.norm(hidden, "model.norm.weight", sizes.width)
    graph.linear(normed, embedding, table_shape, "logits")
    cache_shape = ["B", sizes.kv_heads, "S", _padded(sizes.head_width)]
    caches = [f"{kind}_{layer}" for layer in range(sizes.layers) for kind in ("key", "value")]
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["B", "T"]),
        helper.make_tensor_value_info("filled", TensorProto.INT32, ["B"]),
        helper.make_tensor_value_info("longest", TensorProto.INT32, []),
        helper.make_tensor_value_info("last", TensorProto.INT64, ["B", 1, 1]),
        *(helper.make_tensor_value_info(f"past_{name}", TensorProto.FLOAT, cache_shape) for name in caches),
    ]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 1, sizes.vocabulary]),
        *(helper.make_tensor_value_info(name, TensorProto.FLOAT, cache_shape) for name in caches),
    ]
    proto = helper.make_graph(graph.nodes, "decoder", inputs, outputs, graph.initializers)
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_RUNTIME_DOMAIN, 1)]
    return helper.make_model(proto, opset_imports=opsets, ir_version=_IR_VERSION)


def save_graph(sizes: Architecture, directory: Path) -> None:
    """Write `decoder.onnx` without weights, and `decoder.json` naming the initializers to fill."""
    model = build_graph(sizes)
    external = [
        tensor.name for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL
    ]
    (directory / "decoder.onnx").write_bytes(model.SerializeToString(deterministic=True))
    (directory / "decoder.json").write_text(json.dumps({"initializers": external}, indent=2) + "\n")
