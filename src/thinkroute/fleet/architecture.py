"""Sizes of a member: the part of a Qwen3 configuration that varies. Imports nothing heavy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

ROPE_THETA = 10_000.0
NORM_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Architecture:
    """Dimensions of a Qwen3 causal language model with tied embeddings."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    ff_width: int
    vocabulary: int
    positions: int
    """Context window in tokens."""

    @classmethod
    def read(cls, path: Path) -> Architecture:
        """The sizes in a member's `config.json`."""
        raw = cast("dict[str, int]", json.loads(path.read_text(encoding="utf-8")))
        return cls(
            width=raw["hidden_size"],
            layers=raw["num_hidden_layers"],
            heads=raw["num_attention_heads"],
            kv_heads=raw["num_key_value_heads"],
            head_width=raw["head_dim"],
            ff_width=raw["intermediate_size"],
            vocabulary=raw["vocab_size"],
            positions=raw["max_position_embeddings"],
        )

    def huggingface_config(self, *, pad_id: int, eos_id: int) -> dict[str, object]:
        """`config.json` as Transformers and real engines read it."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_width,
            "intermediate_size": self.ff_width,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.positions,
            "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA},
            "rope_theta": ROPE_THETA,
            "rms_norm_eps": NORM_EPSILON,
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "tie_word_embeddings": True,
            "use_cache": True,
            "pad_token_id": pad_id,
            "bos_token_id": None,
            "eos_token_id": eos_id,
            "dtype": "bfloat16",
        }
