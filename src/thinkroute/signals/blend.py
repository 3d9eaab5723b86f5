"""`hashed_ngrams` and `static` side by side: which words a text uses, and what it means; numpy only.

Owns nothing but the weights of the two: the vector is the hashed one (words, then structure) with the static topic
behind it, scaled by `static_weight`. Meaning carries over to words never seen in training, words tell apart what means
much the same; structure stands once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Final

import numpy as np

from thinkroute.errors import ConfigError
from thinkroute.signals import hashed_ngrams, static
from thinkroute.signals.base import Array, Encoder, EncoderKind, EncoderState, Matrix, Scalar, Vector
from thinkroute.signals.hashed_ngrams import HashedNgrams, HashedNgramsSettings
from thinkroute.signals.settings import read_settings
from thinkroute.signals.static import StaticEncoder, StaticSettings
from thinkroute.signals.wordpiece import splits_alike

NAME: Final = "blend"
_NGRAMS, _STATIC = "ngrams/", "static/"


@dataclass(frozen=True)
class BlendSettings:
    """Settings; the defaults were chosen by cross-validation on public routing sets (docs/signals.md)."""

    static_weight: float = 1.0
    """Length of the static topic beside the unit-length block of words."""
    buckets: int = 8192
    """Hash buckets of the words, a power of two."""
    components: int = 64
    """LSA coordinates of the words, at most."""
    reweigh: bool = True
    """Whether tokens of the topic count by their inverse document frequency."""
    structure_weight: float = 0.2
    """Scale of each standardised structural feature."""
    head_bytes: int = 1024
    """Bytes read from the start."""
    tail_bytes: int = 1024
    """Bytes read from the end."""
    seed: int = 0
    """Seed of the randomised SVD."""


class BlendEncoder:
    """A fitted encoder; see the module."""

    def __init__(self, settings: BlendSettings, ngrams: HashedNgrams, topics: StaticEncoder) -> None:
        self._settings, self._ngrams, self._topics = settings, ngrams, topics
        self._weight = np.float32(settings.static_weight)

    @property
    def dimension(self) -> int:
        """Length of every vector: words, structure, topic."""
        return self._ngrams.dimension + self._topics.topic_dimension

    def encode(self, text: str) -> Vector:
        """Vector of one text."""
        ngrams, topics = self._ngrams, self._topics
        raw = text.encode("utf-8", "replace")
        # Both parts cut alike, and mostly split alike: the text is read once.
        reading = ngrams.read(raw)
        if splits_alike(reading.cut):
            topic = topics.topic_of(topics.wordpiece.of_tokens(reading.tokens))
        else:
            topic = topics.topic_of(topics.wordpiece.pieces(reading.cut))
        topic *= self._weight
        return np.concatenate((ngrams.topic(reading), ngrams.structure(raw), topic))

    def encode_batch(self, texts: Sequence[str]) -> Matrix:
        """Vectors of many texts."""
        matrix_QD = np.empty((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            matrix_QD[row] = self.encode(text)
        return matrix_QD

    def state(self) -> EncoderState:
        """What to save: both parts, their settings and arrays marked by part."""
        parts = {_NGRAMS: self._ngrams.state(), _STATIC: self._topics.state()}
        parameters: dict[str, Scalar] = {"static_weight": self._settings.static_weight}
        arrays: dict[str, Array] = {}
        for mark, part in parts.items():
            parameters |= {mark + name: value for name, value in part.parameters.items()}
            arrays |= {mark + name: array for name, array in part.arrays.items()}
        return EncoderState(NAME, parameters, arrays)


def fit(texts: Sequence[str], parameters: Mapping[str, Scalar]) -> Encoder:
    """Fit both parts on the same texts."""
    settings = read_settings(f"encoder {NAME}", BlendSettings(), parameters)
    if settings.static_weight < 0:
        raise ConfigError(f"encoder {NAME}: static_weight={settings.static_weight} cannot be negative")
    ngrams = hashed_ngrams.fit(texts, _shared(settings, HashedNgramsSettings))
    return BlendEncoder(settings, ngrams, static.fit(texts, _shared(settings, StaticSettings)))


def restore(state: EncoderState) -> Encoder:
    """Rebuild both parts."""
    ngrams = hashed_ngrams.restore(_part(state, _NGRAMS, hashed_ngrams.NAME))
    topics = static.restore(_part(state, _STATIC, static.NAME))
    own = {name: value for name, value in state.parameters.items() if "/" not in name}
    return BlendEncoder(read_settings(f"encoder {NAME}", BlendSettings(), own), ngrams, topics)


KIND: Final = EncoderKind(fit=fit, restore=restore)


def _shared(settings: BlendSettings, part: type[HashedNgramsSettings | StaticSettings]) -> dict[str, Scalar]:
    """The settings that a part knows, too."""
    known = {field.name for field in fields(part)}
    return {name: value for name, value in asdict(settings).items() if name in known}


def _part(state: EncoderState, mark: str, name: str) -> EncoderState:
    return EncoderState(
        name,
        {key.removeprefix(mark): value for key, value in state.parameters.items() if key.startswith(mark)},
        {key.removeprefix(mark): array for key, array in state.arrays.items() if key.startswith(mark)},
    )
