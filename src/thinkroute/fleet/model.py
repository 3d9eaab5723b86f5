"""A minimal Qwen3 in torch for training, with Hugging Face's parameter names.

Owns the forward pass over right-padded batches. Generation and serving belong to the embedded engine; loading in
Transformers needs no conversion, because the state dict is theirs (`lm_head` is tied and absent).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from thinkroute.fleet.architecture import NORM_EPSILON, ROPE_THETA, Architecture

_INIT_STD = 0.02


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a learned scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalise the last axis."""
        return functional.rms_norm(hidden, (hidden.shape[-1],), self.weight, NORM_EPSILON)


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding, half-split layout; `states` is (B, H, T, D), `cos` and `sin` are (T, D)."""
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    """Grouped-query attention with normalised queries and keys."""

    def __init__(self, sizes: Architecture) -> None:
        super().__init__()
        self.head_width = sizes.head_width
        self.q_proj = nn.Linear(sizes.width, sizes.heads * sizes.head_width, bias=False)
        self.k_proj = nn.Linear(sizes.width, sizes.kv_heads * sizes.head_width, bias=False)
        self.v_proj = nn.Linear(sizes.width, sizes.kv_heads * sizes.head_width, bias=False)
        self.o_proj = nn.Linear(sizes.heads * sizes.head_width, sizes.width, bias=False)
        self.q_norm = RMSNorm(sizes.head_width)
        self.k_norm = RMSNorm(sizes.head_width)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Causal self-attention; padding on the right never reaches a real position."""
        batch, length, _ = hidden.shape
        shape = (batch, length, -1, self.head_width)
        query = rotate(self.q_norm(self.q_proj(hidden).view(shape)).transpose(1, 2), cos, sin)
        key = rotate(self.k_norm(self.k_proj(hidden).view(shape)).transpose(1, 2), cos, sin)
        value = self.v_proj(hidden).view(shape).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, sizes: Architecture) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(sizes.width, sizes.ff_width, bias=False)
        self.up_proj = nn.Linear(sizes.width, sizes.ff_width, bias=False)
        self.down_proj = nn.Linear(sizes.ff_width, sizes.width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Gated transformation of each position."""
        return self.down_proj(functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden))


class Block(nn.Module):
    """One decoder layer, normalised before each half."""

    def __init__(self, sizes: Architecture) -> None:
        super().__init__()
        self.self_attn = Attention(sizes)
        self.mlp = FeedForward(sizes)
        self.input_layernorm = RMSNorm(sizes.width)
        self.post_attention_layernorm = RMSNorm(sizes.width)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attention and feed-forward, each added to the residual stream."""
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), cos, sin)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class Decoder(nn.Module):
    """Embedding, blocks and final norm: `Qwen3Model`."""

    def __init__(self, sizes: Architecture) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(sizes.vocabulary, sizes.width)
        self.layers = nn.ModuleList(Block(sizes) for _ in range(sizes.layers))
        self.norm = RMSNorm(sizes.width)

    def forward(self, ids: Tensor, cos: Tensor, sin: Tensor) -> list[Tensor]:
        """What each layer added up to, (B, T, width), before the final norm."""
        hidden = self.embed_tokens(ids)
        after: list[Tensor] = []
        for block in self.layers:
            hidden = block(hidden, cos, sin)
            after.append(hidden)
        return after


class Qwen3(nn.Module):
    """`Qwen3ForCausalLM` with tied embeddings; parameters are named `model.…` as in Transformers."""

    cos: Tensor
    sin: Tensor

    def __init__(self, sizes: Architecture, *, seed: int) -> None:
        super().__init__()
        self.model = Decoder(sizes)
        frequency = ROPE_THETA ** -(torch.arange(0, sizes.head_width, 2) / sizes.head_width)
        angle = torch.outer(torch.arange(sizes.positions), frequency).repeat(1, 2)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            if parameter.ndim == 2:  # matrices; norm scales keep their ones
                nn.init.normal_(parameter, std=_INIT_STD, generator=generator)

    def forward(self, ids: Tensor) -> Tensor:
        """Hidden states of right-padded ids (B, T), after the final norm."""
        return self.model.norm(self.after_layers(ids)[-1])

    def after_layers(self, ids: Tensor) -> list[Tensor]:
        """Hidden states after each layer, before the final norm."""
        length = ids.shape[1]
        return self.model(ids, self.cos[:length], self.sin[:length])

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits of chosen hidden states."""
        return functional.linear(hidden, self.model.embed_tokens.weight)
