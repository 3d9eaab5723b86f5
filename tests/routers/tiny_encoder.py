"""Tiny random encoders with a tokenizer of their own, written to a folder as the Hugging Face hub would."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

_THINGS = ("math", "sum", "plus", "the", "of", "a", "poem", "number")
WORDS = (
    *_THINGS,
    "add",
    "red",
    "seven",
    "if",
    "proof",
    "12",
    "x",
    "+",
    "y",
    "print",
    "1",
    "why",
    "für",
    "sun",
    "sea",
    "rain",
)


KINDS = ("bert", "modernbert", "deberta")


@cache
def tiny_encoder(kind: str = "bert") -> str:
    """Path of the folder; written once per process and kind."""
    import torch as any_torch
    import transformers

    torch: Any = any_torch
    folder = Path(tempfile.mkdtemp(prefix="tiny-encoder-"))
    library: Any = transformers
    vocabulary = {word: number for number, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS))}
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "BertProcessing",
            "sep": ["[SEP]", vocabulary["[SEP]"]],
            "cls": ["[CLS]", vocabulary["[CLS]"]],
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    special = {name: f"[{name[:3].upper()}]" for name in ("pad_token", "unk_token", "cls_token", "sep_token")}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **special})
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _model(library, kind, len(vocabulary)).save_pretrained(folder)
    return str(folder)


def _model(library: Any, kind: str, vocabulary: int) -> Any:
    sizes: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
    if kind == "modernbert":
        # Three layers, so that a sliding window stands beside attention to everything.
        special = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
        windows = {"num_hidden_layers": 3, "local_attention": 8, "global_attn_every_n_layers": 2}
        return library.ModernBertModel(library.ModernBertConfig(**{**sizes, **special, **windows}))
    if kind == "deberta":
        distances = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16}
        return library.DebertaV2Model(library.DebertaV2Config(**{**sizes, **distances}))
    return library.BertModel(library.BertConfig(**sizes))
