"""What is trained: the fleet's own Qwen3, or any Hugging Face causal language model, behind one thin contract.

Owns the modules' hidden states, logits, weights and storage. It does not generate: samplers do.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

from thinkroute.engines.embedded.decoder import read_weights
from thinkroute.errors import ConfigError
from thinkroute.fleet.architecture import Architecture
from thinkroute.fleet.model import Qwen3

DtypeName = Literal["float32", "bfloat16"]


class Learner(Protocol):
    """A causal language model under training."""

    name: str
    module: nn.Module
    width: int
    """Size of a hidden state."""
    vocabulary: int
    """Logits per position."""

    def hidden(self, ids_BT: Tensor, real_BT: Tensor) -> Tensor:
        """Last hidden states (B, T, width) of right-padded ids; `real_BT` is False on padding."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits of chosen hidden states."""
        ...

    def weights(self) -> Mapping[str, NDArray[np.float32]]:
        """The current weights for a sampler that keeps its own copy; read them before the next update."""
        ...

    def save(self, directory: Path) -> None:
        """Write a directory that engines load."""
        ...


_SEEN_NORM = 2.0
"""Length of the embeddings of a member's frequent words."""


class FleetLearner:
    """A member of the fleet. Computes in float32; stored as bfloat16, like every member.

    Args:
        name: The member's name.
        directory: Its folder; files other than the weights are copied to where it is saved.
    """

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self._directory = directory
        sizes = Architecture.read(directory / "config.json")
        self.width = sizes.width
        self.vocabulary = sizes.vocabulary
        self._model = Qwen3(sizes, seed=0)
        stored = read_weights(directory / "model.safetensors")
        state = {key: torch.from_numpy(value.copy()) for key, value in stored.items()}  # pyright: ignore[reportUnknownMemberType]
        self._model.load_state_dict(state)
        self.module: nn.Module = self._model

    def hidden(self, ids_BT: Tensor, real_BT: Tensor) -> Tensor:
        """Causal attention never looks at padding on the right, so there is nothing to mask."""
        return self._model(ids_BT)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits through the tied embedding."""
        return self._model.logits(hidden)

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """All tensors, not copied: read them before the next update."""
        return {key: value.detach().numpy() for key, value in self._model.state_dict().items()}

    def introduce(self, ids: Sequence[int], seed: int) -> None:
        """Give tokens that the member never saw embeddings which differ.

        All tokens that never occur are pushed along the same way by the softmax of a tied embedding, and end as one vector; no
        fine-tuning tells them apart again. What is common stays, so that none of them becomes likelier to be written.
        """
        generator = torch.Generator().manual_seed(seed)
        table = self._model.model.embed_tokens.weight
        with torch.no_grad():
            own = torch.randn(len(ids), table.shape[1], generator=generator)
            table[list(ids)] += own * (_SEEN_NORM / own.square().sum(1, keepdim=True).sqrt())

    def save(self, directory: Path) -> None:
        """Write a complete member."""
        directory.mkdir(parents=True, exist_ok=True)
        for path in self._directory.iterdir():
            if (
                path.name not in ("model.safetensors", "README.md")
                and path.resolve() != directory / path.name
            ):
                shutil.copyfile(path, directory / path.name)
        tensors = {
            key: value.to(torch.bfloat16).contiguous() for key, value in self._model.state_dict().items()
        }
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        (directory / "model.safetensors").chmod(0o644)


class HuggingFaceLearner:
    """Any causal language model that Transformers loads.

    Args:
        path: Folder or name of the checkpoint.
        device: Where it is trained, e.g. `cuda`.
        dtype: Type of the weights. What the optimiser steps is float32 in any case: see `mixed_precision`.
        gradient_checkpointing: Trade computation for memory.
        lora_rank: Train low-rank adapters of this rank (needs peft) instead of all weights; 0 for all.

    Raises:
        ConfigError: the checkpoint cannot be loaded, the device is not there, or peft is missing.
    """

    def __init__(
        self,
        path: str,
        *,
        device: str = "cpu",
        dtype: DtypeName = "float32",
        gradient_checkpointing: bool = False,
        lora_rank: int = 0,
    ) -> None:
        import transformers

        if device.startswith("cuda") and not _has_cuda(device):
            raise ConfigError(
                f"device {device!r}: there is no such device here; set device: cpu", param="device"
            )
        self.name = Path(path).name
        self._path = path
        try:
            model: Any = cast("Any", transformers).AutoModelForCausalLM.from_pretrained(
                path, dtype=getattr(torch, dtype)
            )
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"cannot load checkpoint {path!r} (a folder, or a name on the Hugging Face hub): {error}",
                param="path",
            ) from error
        if gradient_checkpointing:
            model.gradient_checkpointing_enable()
            model.enable_input_require_grads()
        if lora_rank:
            model = _with_adapters(model, lora_rank)
        self.model: Any = model.to(device)
        self.width = int(model.config.hidden_size)
        self.vocabulary = int(model.config.vocab_size)
        self.module: nn.Module = cast("nn.Module", self.model)

    def hidden(self, ids_BT: Tensor, real_BT: Tensor) -> Tensor:
        """Hidden states after the final norm."""
        decoder = self.model.get_decoder()
        return decoder(input_ids=ids_BT, attention_mask=real_BT.long(), use_cache=False).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits in float32, as log-probabilities need them."""
        return self.model.get_output_embeddings()(hidden).float()

    def weights(self) -> Mapping[str, NDArray[np.float32]]:
        """All tensors by their names in the checkpoint, copied when they are read; adapters are merged into them."""
        return _Merged(self.model)

    def save(self, directory: Path) -> None:
        """Write weights and tokenizer in Hugging Face's layout; adapters are merged, and lie in `adapter` besides."""
        import transformers

        if hasattr(self.model, "get_base_model"):
            self.model.get_base_model().save_pretrained(directory, state_dict=_Merged(self.model).tensors())
            self.model.save_pretrained(directory / "adapter")
        else:
            self.model.save_pretrained(directory)
        cast("Any", transformers).AutoTokenizer.from_pretrained(self._path).save_pretrained(directory)


class _Merged(Mapping[str, NDArray[np.float32]]):
    """A checkpoint's tensors, each with the adapter that works on it added, computed one at a time."""

    def __init__(self, model: Any) -> None:
        base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._adapted = {
            f"{name}.weight": module
            for name, module in base.named_modules()
            if hasattr(module, "get_delta_weight")
        }
        self._state: dict[str, Tensor] = {
            key.replace(".base_layer.", "."): value
            for key, value in base.state_dict().items()
            if ".lora_" not in key
        }

    def __getitem__(self, key: str) -> NDArray[np.float32]:
        return self._merged(key).cpu().numpy()

    def _merged(self, key: str) -> Tensor:
        weight = self._state[key].detach().float()
        if (module := self._adapted.get(key)) is not None:
            weight = weight + module.get_delta_weight("default").detach().float()
        return weight

    def tensors(self) -> dict[str, Tensor]:
        """The same in the checkpoint's own type; what no adapter works on is the model's own memory."""
        return {
            key: self._merged(key).to(value.dtype) if key in self._adapted else value
            for key, value in self._state.items()
        }

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


def save_weights(weights: Mapping[str, NDArray[np.float32]], path: Path, dtype: DtypeName) -> None:
    """Write weights as a safetensors file of this type, at once or not at all."""
    # A view of the learner's own memory would do, but one tensor may stand under two names, which the format refuses.
    tensors = {
        key: torch.from_numpy(value).to(getattr(torch, dtype), copy=True)  # pyright: ignore[reportUnknownMemberType]
        for key, value in weights.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.chmod(0o644)
    partial.replace(path)


def _has_cuda(device: str) -> bool:
    return (torch.device(device).index or 0) < torch.cuda.device_count()


def _with_adapters(model: Any, rank: int) -> Any:
    try:
        import peft  # pyright: ignore[reportMissingImports, reportMissingTypeStubs]
    except ModuleNotFoundError as missing:
        raise ConfigError("lora_rank needs peft: pip install peft, or set lora_rank: 0") from missing
    typed = cast("Any", peft)
    settings = typed.LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return typed.get_peft_model(model, settings)


def fingerprint(learner: Learner) -> str:
    """A short hash of the current weights: what cached statistics of a model are keyed by."""
    import hashlib

    digest = hashlib.blake2b(digest_size=8)
    for key, value in sorted(learner.module.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
