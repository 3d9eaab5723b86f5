"""A member as one GGUF file, which llama.cpp and what is built on it load. Torch-free; needs the `gguf` package.

Owns the names, types and metadata that llama.cpp expects, and how the tokenizer survives the journey. Weights are
written as float32: members compute in float32, and beside bfloat16 weights llama.cpp rounds activations too.

The tokenizer. llama.cpp cuts raw text by one of its own regular expressions, none of which is the members'. But before
that it looks for user-defined tokens in the text as it stands, the longest first. So every token of several bytes is
written as user-defined, with its plain text; what is left falls to single bytes, as in the original. Text made of the
members' words gives the same ids. A word that is none of them but contains one is cut differently; members cannot read
it either way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from thinkroute.engines.embedded.decoder import read_weights
from thinkroute.engines.embedded.vocabulary import Vocabulary
from thinkroute.errors import ConfigError

TokenKind = Literal["NORMAL", "CONTROL", "USER_DEFINED", "UNUSED"]

_ARCHITECTURE = "qwen3"
_PRE_TOKENIZER = "qwen2"
"""Only ever cuts what is taken apart into bytes afterwards, so any would do."""
_MERGES = ("! !",)
"""A file without merges is refused. The result of this one is no token, so llama.cpp takes it apart again."""


@dataclass(frozen=True, slots=True)
class GgufToken:
    """One entry of the vocabulary as llama.cpp reads it."""

    text: str
    """Plain text, except for single bytes: those are symbols of a byte-level vocabulary."""
    kind: TokenKind


def export_gguf(directory: Path, file: Path, *, name: str) -> None:
    """Write the member in `directory` (Hugging Face's layout) to `file`; `name` is what servers show.

    Raises:
        ConfigError: the `gguf` package is missing, or the folder holds no model of the members' kind.
    """
    try:
        import gguf
    except ModuleNotFoundError as missing:
        raise ConfigError(f"GGUF export needs {missing.name}: pip install 'thinkroute[gguf]'") from missing
    config = _config(directory)
    tokens = gguf_tokens(directory)
    writer = gguf.GGUFWriter(file, _ARCHITECTURE)
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_sizes(writer, config)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_PRE_TOKENIZER)
    writer.add_token_list([token.text for token in tokens])
    writer.add_token_types([gguf.TokenType[token.kind] for token in tokens])
    writer.add_token_merges(_MERGES)
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(value=False)
    writer.add_chat_template((directory / "chat_template.jinja").read_text(encoding="utf-8"))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config["num_hidden_layers"])
    for tensor_name, weights in read_weights(directory / "model.safetensors").items():
        known = names.get_name(tensor_name, try_suffixes=(".weight",))
        if known is None:
            raise ConfigError(f"{directory}: llama.cpp's Qwen3 has no tensor for {tensor_name!r}")
        writer.add_tensor(known, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_tokens(directory: Path) -> list[GgufToken]:
    """The vocabulary of a member, one entry per row of its embedding.

    Raises:
        ConfigError: the tokenizer is not of the members' kind: merges could not be told from whole words.
    """
    path = directory / "tokenizer.json"
    tokenizer = _read_json(path)
    model: Mapping[str, Any] = tokenizer["model"]
    if model["type"] != "BPE" or model["merges"] or not model.get("ignore_merges"):
        raise ConfigError(f"{path}: only a tokenizer of whole words without merges can be exported")
    added = {token["id"]: token for token in tokenizer["added_tokens"]}
    symbols = {index: symbol for symbol, index in model["vocab"].items()}
    vocabulary = Vocabulary(path)
    tokens: list[GgufToken] = []
    for index in range(_config(directory)["vocab_size"]):
        if index in added:
            kind: TokenKind = "CONTROL" if added[index]["special"] else "USER_DEFINED"
            tokens.append(GgufToken(added[index]["content"], kind))
        elif index not in symbols:
            tokens.append(GgufToken(f"[UNUSED{index}]", "UNUSED"))
        elif len(symbols[index]) == 1:
            tokens.append(GgufToken(symbols[index], "NORMAL"))
        else:
            tokens.append(GgufToken(vocabulary.bytes_of(index).decode(), "USER_DEFINED"))
    return tokens


def _add_sizes(writer: Any, config: Mapping[str, Any]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _config(directory: Path) -> dict[str, Any]:
    config = _read_json(directory / "config.json")
    if config.get("model_type") != "qwen3" or not config.get("tie_word_embeddings"):
        raise ConfigError(f"{directory}: only a Qwen3 model with tied embeddings can be exported")
    return config


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(f"{path.parent}: no member of the fleet ({path.name} is missing)") from None
