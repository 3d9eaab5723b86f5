"""Sizes of a member: the part of a Qwen3 configuration that varies. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

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
