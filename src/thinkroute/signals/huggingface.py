"""Any encoder of the Hugging Face kind, by name or folder, on torch.

Owns loading, pooling (mean over tokens, or the first token) and scaling to unit length. The model itself is not part
of what is saved: a restored router loads it again from the same name or folder, so pin `revision` for names.
Texts of equal length share a batch, so nothing is padded; still, a batch's sums may round otherwise than one text's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np

from thinkroute.errors import ConfigError
from thinkroute.signals.base import Encoder, EncoderKind, EncoderState, Matrix, Scalar, Vector
from thinkroute.signals.cut import head_and_tail
from thinkroute.signals.extras import optional
from thinkroute.signals.settings import read_settings

NAME: Final = "huggingface"
POOLINGS: Final = ("mean", "cls")
PRECISIONS: Final = ("float32", "bfloat16")


@dataclass(frozen=True)
class HuggingfaceSettings:
    """Settings; `model` has no default."""

    model: str = ""
    """Name on the hub, or a folder with `config.json`, weights and tokenizer."""
    revision: str = "main"
    """Commit or branch of a name on the hub."""
    pooling: str = "mean"
    """mean or cls."""
    precision: str = "float32"
    """float32 or bfloat16."""
    device: str = "cpu"
    """Where torch computes, e.g. cpu or cuda."""
    batch_size: int = 64
    """Texts computed at once, at most."""
    most_tokens: int = 512
    """Tokens read of what the cut left, special ones included; the rest is left out."""
    head_bytes: int = 1024
    """Bytes read from the start."""
    tail_bytes: int = 1024
    """Bytes read from the end."""


class HuggingfaceEncoder:
    """A fitted encoder; see the module."""

    def __init__(self, settings: HuggingfaceSettings) -> None:
        self.settings = settings
        """Settings, complete."""
        self._torch = optional("torch", extra="train")
        self._tokenizer, self._model = _load(settings, self._torch)
        self._dimension = int(self._model.config.hidden_size)

    @property
    def dimension(self) -> int:
        """Length of every vector: the model's hidden size."""
        return self._dimension

    def encode(self, text: str) -> Vector:
        """Vector of one text."""
        return self.encode_batch((text,))[0]

    def encode_batch(self, texts: Sequence[str]) -> Matrix:
        """Vectors of many texts."""
        matrix_QD = np.empty((len(texts), self.dimension), dtype=np.float32)
        numbers = [self._numbers(text) for text in texts]
        for rows in _batches(numbers, self.settings.batch_size):
            matrix_QD[rows] = self._forward([numbers[row] for row in rows])
        return matrix_QD

    def state(self) -> EncoderState:
        """What to save: settings alone."""
        return EncoderState(NAME, asdict(self.settings))

    def _numbers(self, text: str) -> list[int]:
        raw = head_and_tail(text, self.settings.head_bytes, self.settings.tail_bytes)
        most = self.settings.most_tokens
        numbers: list[int] = self._tokenizer(raw.decode("utf-8", "ignore"), truncation=True, max_length=most)[
            "input_ids"
        ]
        # A tokenizer without special tokens turns an empty text into nothing, which no model can read.
        return numbers or [0]

    def places(self, numbers: Sequence[Sequence[int]]) -> Matrix:
        """The model's vectors of every token, of texts that are equally many tokens long, shape (Q, T, D)."""
        torch = self._torch
        with torch.inference_mode():
            ids = torch.tensor(numbers, device=self.settings.device)
            hidden = self._model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            vectors_QTD: Matrix = hidden.float().cpu().numpy()
        return vectors_QTD

    def _forward(self, numbers: Sequence[Sequence[int]]) -> Matrix:
        vectors_QTD = self.places(numbers)
        pooled_QD = vectors_QTD[:, 0] if self.settings.pooling == "cls" else vectors_QTD.mean(axis=1)
        return pooled_QD / np.maximum(np.linalg.norm(pooled_QD, axis=1, keepdims=True), 1e-12)


def fit(texts: Sequence[str], parameters: Mapping[str, Scalar]) -> Encoder:
    """Load the model; nothing is learned from the texts."""
    return HuggingfaceEncoder(_settings(parameters))


def restore(state: EncoderState) -> Encoder:
    """Load the model that the settings name."""
    return HuggingfaceEncoder(_settings(state.parameters))


KIND: Final = EncoderKind(fit=fit, restore=restore)


def _settings(parameters: Mapping[str, Scalar]) -> HuggingfaceSettings:
    owner = f"encoder {NAME}"
    settings = read_settings(owner, HuggingfaceSettings(), parameters)
    if not settings.model:
        raise ConfigError(f"{owner}: model is not set: give a name on the hub or a folder")
    for name, value, known in (
        ("pooling", settings.pooling, POOLINGS),
        ("precision", settings.precision, PRECISIONS),
    ):
        if value not in known:
            raise ConfigError(f"{owner}: {name}={value!r} is unknown: use one of {', '.join(known)}")
    if min(settings.batch_size, settings.most_tokens, settings.head_bytes) < 1 or settings.tail_bytes < 0:
        raise ConfigError(
            f"{owner}: batch_size, most_tokens and head_bytes must be positive, tail_bytes not negative"
        )
    return settings


def check_model(owner: str, model: str) -> None:
    """Refuse a path that leads nowhere; a library would take it for a name on a hub.

    Raises:
        ConfigError: `model` looks like a path and is no folder.
    """
    if model.startswith(("/", ".", "~")) and not Path(model).is_dir():
        raise ConfigError(
            f"{owner}model {model!r} is not a folder: give one with config.json, weights and tokenizer"
        )


def _load(settings: HuggingfaceSettings, torch: ModuleType) -> tuple[Any, Any]:
    transformers = optional("transformers", extra="train")
    check_model(f"encoder {NAME}: ", settings.model)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(settings.model, revision=settings.revision)
        model = transformers.AutoModel.from_pretrained(
            settings.model, revision=settings.revision, dtype=getattr(torch, settings.precision)
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"encoder {NAME}: model {settings.model!r} cannot be loaded: {error}") from error
    return tokenizer, model.to(settings.device).eval()


def _batches(numbers: Sequence[Sequence[int]], most: int) -> Iterator[list[int]]:
    """Rows of equal length, at most so many at once."""
    by_length: dict[int, list[int]] = {}
    for row, pieces in enumerate(numbers):
        by_length.setdefault(len(pieces), []).append(row)
    for rows in by_length.values():
        for start in range(0, len(rows), most):
            yield rows[start : start + most]
