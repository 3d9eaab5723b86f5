"""Writing a trained member as a directory that Transformers, other engines and the embedded engine load."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

from thinkroute.engines.embedded.prompt import TURN_END
from thinkroute.fleet.graph import save_graph
from thinkroute.fleet.recipe import Recipe
from thinkroute.fleet.tokenizer import PAD, build_tokenizer, save_tokenizer, token_id


def export_member(recipe: Recipe, state: dict[str, torch.Tensor], directory: Path) -> None:
    """Write weights (bfloat16), configuration, tokenizer, chat template and graph."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in state.items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    tokenizer = build_tokenizer()
    pad_id, eos_id = token_id(tokenizer, PAD), token_id(tokenizer, TURN_END)
    sizes = recipe.architecture()
    config = sizes.huggingface_config(pad_id=pad_id, eos_id=eos_id)
    (directory / "model.safetensors").chmod(0o644)  # the writer leaves it unreadable to others
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"do_sample": False, "eos_token_id": eos_id, "pad_token_id": pad_id}
    (directory / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    save_tokenizer(directory)
    save_graph(sizes, directory)
