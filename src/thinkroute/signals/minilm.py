"""A BERT sentence encoder, such as MiniLM, as int8 on ONNX Runtime.

Owns reading a folder that `thinkroute signals export-minilm` wrote: `model.onnx` and `vocab.txt`. The graph ends in the
mean over tokens, scaled to unit length; the text's scaled structure stands behind it, as in `static`, because how long a
question is and what it is made of the mean over its tokens forgets. Texts are computed one at a time even in a batch, because int8 scales are
taken over everything computed at once and a neighbour would change them. What is saved is the folder's path and the
model's SHA-256, not the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from thinkroute.errors import ConfigError, DataError
from thinkroute.signals.base import Array, Encoder, EncoderKind, EncoderState, Matrix, Scalar, Vector
from thinkroute.signals.cut import head_and_tail
from thinkroute.signals.settings import read_settings
from thinkroute.signals.structure import FEATURES, ScaledStructure
from thinkroute.signals.wordpiece import WordPiece

NAME: Final = "minilm"
MODEL, VOCABULARY = "model.onnx", "vocab.txt"
_FIRST, _LAST = "[CLS]", "[SEP]"


@dataclass(frozen=True)
class MinilmSettings:
    """Settings; `path` has no default."""

    path: str = ""
    """Folder with `model.onnx` and `vocab.txt`."""
    most_tokens: int = 256
    """Tokens read of what the cut left, special ones included: half from each end."""
    head_bytes: int = 512
    """Bytes read from the start."""
    tail_bytes: int = 512
    """Bytes read from the end."""
    threads: int = 1
    """Threads of one computation."""
    structure_weight: float = 0.2
    """Scale of each standardised structural feature beside the unit-length vector; 0 leaves them out."""
    model_sha256: str = ""
    """Of `model.onnx`; filled when fitting, checked when loading."""


class MinilmEncoder:
    """A fitted encoder; see the module."""

    def __init__(self, settings: MinilmSettings, arrays: Mapping[str, Array]) -> None:
        folder = Path(settings.path).expanduser()
        raw = _read(folder / MODEL)
        digest = hashlib.sha256(raw).hexdigest()
        if settings.model_sha256 not in ("", digest):
            raise DataError(
                f"encoder {NAME}: {folder / MODEL} is another model than the router was fitted with"
            )
        self.settings = replace(settings, model_sha256=digest)
        """Settings, complete."""
        vocabulary = _read(folder / VOCABULARY).decode("utf-8").splitlines()
        self._wordpiece = WordPiece(vocabulary)
        self._first, self._last = vocabulary.index(_FIRST), vocabulary.index(_LAST)
        self._session = _session(raw, settings.threads)
        self._arrays = dict(arrays)
        self._structure = ScaledStructure(arrays, settings.structure_weight) if arrays else None
        self._dimension = int(self._session.get_outputs()[0].shape[-1]) + (len(FEATURES) if arrays else 0)

    @property
    def dimension(self) -> int:
        """Length of every vector: the model's hidden size, then structural features."""
        return self._dimension

    def encode(self, text: str) -> Vector:
        """Vector of one text."""
        ids_1T = np.array([self._numbers(text)], dtype=np.int64)
        vector_1D = cast("Matrix", self._session.run(None, {"ids": ids_1T})[0])
        if self._structure is None:
            return vector_1D[0]
        return np.concatenate((vector_1D[0], self._structure.of(text.encode("utf-8", "replace"))))

    def encode_batch(self, texts: Sequence[str]) -> Matrix:
        """Vectors of many texts."""
        matrix_QD = np.empty((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            matrix_QD[row] = self.encode(text)
        return matrix_QD

    def state(self) -> EncoderState:
        """What to save: settings, the model's digest among them, and the scales of structure."""
        return EncoderState(NAME, asdict(self.settings), self._arrays)

    def _numbers(self, text: str) -> list[int]:
        pieces = self._wordpiece.encode(
            head_and_tail(text, self.settings.head_bytes, self.settings.tail_bytes)
        )
        most = self.settings.most_tokens - 2
        if len(pieces) > most:
            half = most // 2
            pieces = pieces[: most - half] + pieces[len(pieces) - half :]
        return [self._first, *pieces, self._last]


def fit(texts: Sequence[str], parameters: Mapping[str, Scalar]) -> Encoder:
    """Load the model; only the scales of structure are learned from the texts."""
    settings = _settings(parameters)
    raws = [text.encode("utf-8", "replace") for text in texts]
    return MinilmEncoder(settings, ScaledStructure.fit(raws) if settings.structure_weight else {})


def restore(state: EncoderState) -> Encoder:
    """Load the model and check that it is the one of the fit."""
    settings = _settings(state.parameters)
    if settings.structure_weight:
        ScaledStructure.check(f"encoder {NAME}", state.arrays)
    return MinilmEncoder(settings, state.arrays)


KIND: Final = EncoderKind(fit=fit, restore=restore)


def _settings(parameters: Mapping[str, Scalar]) -> MinilmSettings:
    owner = f"encoder {NAME}"
    settings = read_settings(owner, MinilmSettings(), parameters)
    if not settings.path:
        raise ConfigError(f"{owner}: path is not set: make a folder with `thinkroute signals export-minilm`")
    if settings.most_tokens < 3 or min(settings.head_bytes, settings.threads) < 1:
        raise ConfigError(f"{owner}: most_tokens must be at least 3, head_bytes and threads positive")
    if settings.tail_bytes < 0 or settings.structure_weight < 0:
        raise ConfigError(f"{owner}: tail_bytes and structure_weight cannot be negative")
    return settings


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"encoder {NAME}: {path} cannot be read ({error.strerror}): make it with `thinkroute signals export-minilm`"
        ) from error


def _session(raw: bytes, threads: int) -> Any:
    import onnxruntime  # pyright: ignore[reportMissingTypeStubs]

    runtime = cast("Any", onnxruntime)  # no type stubs exist
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return runtime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # The runtime's own exceptions have no common base below Exception.
        raise DataError(f"encoder {NAME}: {MODEL} is not a model ONNX Runtime can read: {error}") from error
