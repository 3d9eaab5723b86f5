"""An encoder of the Hugging Face kind as something to train: loading, pooling, and writing it as an ONNX graph.

Owns everything that needs torch, transformers and onnx around such an encoder; what is done with its vectors is the
business of whoever trains it. Training pads batches and masks the padding; the graph reads one text and needs neither.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from thinkroute.errors import ConfigError, DataError
from thinkroute.routers.encoder_regressor.text import TextGraph, TextModel, TokenCutter
from thinkroute.signals.extras import optional
from thinkroute.signals.huggingface import check_model

POOLINGS: Final = ("mean", "cls")
PRECISIONS: Final = ("int8", "float32")
_OPSET: Final = 17
_SAME: Final = 1e-3
"""Largest difference allowed between torch and the float32 graph, relative to the largest output."""
_PROBES: Final = ("a", "What is 12 + 7?", "one two three four five six seven eight nine ten " * 40)


class Network:
    """A loaded encoder, an optional head, and their tokenizer."""

    def __init__(self, torch: Any, model: Any, tokenizer: bytes, *, pooling: str, most_tokens: int) -> None:
        self._torch, self._pooling, self._tokenizer = torch, pooling, tokenizer
        self._cutter = TokenCutter(tokenizer, most_tokens)
        self.device: str = "cuda" if torch.cuda.is_available() else "cpu"
        """Where torch computes."""
        self._model = model.to(self.device)
        self._head: Any = None
        self.width = int(model.config.hidden_size)
        """Length of a pooled vector."""
        self._pad = int(model.config.pad_token_id or 0)

    def add_head(self, outputs: int) -> None:
        """A linear layer over the pooled vector; starts at zero, so that training starts from the averages."""
        self._head = self._torch.nn.Linear(self.width, outputs).to(self.device)
        self._torch.nn.init.zeros_(self._head.weight)
        self._torch.nn.init.zeros_(self._head.bias)

    def parameters(self) -> list[Any]:
        """Of the encoder alone."""
        return list(self._model.parameters())

    def head_parameters(self) -> list[Any]:
        """Of the head alone."""
        return list(self._head.parameters())

    def train(self) -> None:
        """Dropout on."""
        self._model.train()

    def eval(self) -> None:
        """Dropout off."""
        self._model.eval()

    def cut_share(self, texts: Sequence[str]) -> float:
        """Share of texts that are longer than what is read."""
        return float(np.mean([self._cutter(text)[1] for text in texts])) if texts else 0.0

    def pooled(self, texts: Sequence[str]) -> Any:
        """Vectors of a batch, float32, shape (B, D). bfloat16 inside where a GPU computes."""
        torch = self._torch
        numbers = [self._cutter(text)[0] for text in texts]
        length = max(len(ids) for ids in numbers)
        ids_BT = torch.tensor(
            [ids + [self._pad] * (length - len(ids)) for ids in numbers], device=self.device
        )
        mask_BT = torch.tensor(
            [[1] * len(ids) + [0] * (length - len(ids)) for ids in numbers], device=self.device
        )
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            hidden_BTD = self._model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
        hidden_BTD = hidden_BTD.float()
        if self._pooling == "cls":
            return hidden_BTD[:, 0]
        return (hidden_BTD * mask_BT[:, :, None]).sum(dim=1) / mask_BT.sum(dim=1, keepdim=True)

    def outputs(self, texts: Sequence[str]) -> Any:
        """The head's numbers of a batch, float32, shape (B, K); the pooled vectors where there is no head."""
        pooled_BD = self.pooled(texts)
        return pooled_BD if self._head is None else self._head(pooled_BD)

    def weights(self) -> list[Any]:
        """A copy of all weights, to come back to."""
        return [tensor.detach().clone() for tensor in self._all_parameters()]

    def restore(self, weights: Iterable[Any]) -> None:
        """Come back to a copy."""
        with self._torch.no_grad():
            for tensor, kept in zip(self._all_parameters(), weights, strict=True):
                tensor.copy_(kept)

    def _all_parameters(self) -> list[Any]:
        return self.parameters() + ([] if self._head is None else self.head_parameters())

    def export(self, precision: str) -> TextGraph:
        """The network as a graph for ONNX Runtime; leaves it in evaluation mode on the CPU.

        Raises:
            DataError: the float32 graph does not compute what torch does (an architecture the exporter gets wrong).
        """
        self._model, self.device = self._model.to("cpu").eval(), "cpu"
        if self._head is not None:
            self._head = self._head.to("cpu")
        parts = TextGraph(self._graph(), self._tokenizer, self._cutter.most_tokens)
        self._check(parts)
        if precision == "float32":
            return parts
        return TextGraph(_quantised(parts.graph), parts.tokenizer, parts.most_tokens)

    def _graph(self) -> bytes:
        torch, model, head, pooling = self._torch, self._model, self._head, self._pooling

        class OneText(torch.nn.Module):
            """Tokens of one text to its numbers."""

            def __init__(self) -> None:
                super().__init__()  # pyright: ignore[reportUnknownMemberType]  # torch is Any here
                self.model, self.head = model, head

            def forward(self, ids: Any) -> Any:
                hidden = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
                vector = hidden[:, 0] if pooling == "cls" else hidden.mean(dim=1)
                return vector if self.head is None else self.head(vector)

        buffer = io.BytesIO()
        ids = torch.tensor([self._cutter(_PROBES[-1])[0]])
        with warnings.catch_warnings():
            # The tracing exporter is called old by its authors and needs no further library; `_check` proves its work.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                OneText().eval(),
                (ids,),
                buffer,
                dynamo=False,
                input_names=["ids"],
                output_names=["output"],
                dynamic_axes={"ids": {1: "T"}},
                opset_version=_OPSET,
            )
        return buffer.getvalue()

    def _check(self, parts: TextGraph) -> None:
        served = TextModel(parts)
        with self._torch.no_grad():
            for probe in _PROBES:
                wanted: np.ndarray[Any, np.dtype[np.float32]] = self.outputs([probe]).numpy()[0]
                off = float(np.abs(served.encode(probe) - wanted).max())
                if not off <= _SAME * max(1.0, float(np.abs(wanted).max())):
                    raise DataError(
                        f"the ONNX graph of {type(self._model).__name__} differs from torch by {off:.2g} "
                        f"on a text of {len(probe)} characters: this architecture cannot be served"
                    )


def load_network(model: str, *, pooling: str, most_tokens: int, revision: str = "main") -> Network:
    """Load an encoder by name or folder.

    Raises:
        ConfigError: it cannot be loaded, its tokenizer has no fast form, or a setting is wrong.
    """
    if not model:
        raise ConfigError("model is not set: give a name on the hub or a folder with an encoder")
    if pooling not in POOLINGS:
        raise ConfigError(f"pooling={pooling!r} is unknown: use one of {', '.join(POOLINGS)}")
    torch, transformers = optional("torch", extra="train"), optional("transformers", extra="train")
    check_model("", model)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(model, revision=revision)
        encoder = transformers.AutoModel.from_pretrained(model, revision=revision, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model {model!r} cannot be loaded: {error}") from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ConfigError(f"model {model!r} has no tokenizer.json: serving without transformers needs one")
    positions = getattr(encoder.config, "max_position_embeddings", None)
    if positions is not None and most_tokens > positions:
        raise ConfigError(f"model {model!r} reads at most {positions} tokens, most_tokens={most_tokens}")
    raw = cast("str", backend.to_str()).encode("utf-8")
    return Network(torch, encoder, raw, pooling=pooling, most_tokens=most_tokens)


def _quantised(graph: bytes) -> bytes:
    """Weights of matrix products as int8, activations rounded per text.

    Seven bits per weight: without VNNI a pair of 8-bit products can overflow its 16-bit sum.
    """
    optional("onnx", extra="train")
    quantization = optional("onnxruntime.quantization", extra="train")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(graph)
        with _handled_root():
            quantization.quantize_dynamic(
                source, target, per_channel=True, reduce_range=True, weight_type=quantization.QuantType.QInt8
            )
        return target.read_bytes()


@contextmanager
def _handled_root() -> Generator[None]:
    """The quantiser logs through the root logger, which installs a handler of its own where there is none."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
