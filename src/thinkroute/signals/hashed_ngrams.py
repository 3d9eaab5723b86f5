"""Word 1-2-grams and byte 3- and 5-grams hashed with a sign, weighted by tf-idf, reduced by LSA; numpy only.

Owns the bundled default encoder. The vector is two blocks side by side: `components` LSA coordinates scaled to
unit length (what the text is about) and the standardised structural features scaled by `structure_weight` (how
long and how intricate it is). The first serves prompts of the real world, the second serves small languages where
the number of steps decides the difficulty.

Deterministic: hashes are products of the bytes themselves and of CRC-32 over words, so neither the process, the platform's byte
order nor PYTHONHASHSEED matters. Only the first `head_bytes` and last `tail_bytes` are read for n-grams; structure
sees everything.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final, cast
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from thinkroute.errors import ConfigError, DataError
from thinkroute.signals.base import Array, EncoderKind, EncoderState, Matrix, Scalar, Vector
from thinkroute.signals.settings import read_settings
from thinkroute.signals.structure import FEATURES, ScaledStructure

NAME: Final = "hashed_ngrams"
VERSION: Final = 2

_TOKEN: Final = re.compile(r"\w+|[^\w\s]")
_TOKEN_ASCII: Final = re.compile(rb"\w+|[^\w\s\x1c-\x1f]")
"""The same tokens of a text that is all ASCII; text counts four more control characters as white space."""
_STEP: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX: Final = np.uint64(0xBF58476D1CE4E5B9)
_WORD_SALT: Final = 0x94D049BB133111EB
_ALL_BITS: Final = (1 << 64) - 1
_SIGNS: Final = np.array([1.0, -1.0])
_MOST_WORDS: Final = 65536
_MOST_REMEMBERED_BYTES: Final = 64
"""Longer words are rarely met again, and would let callers fill the memory."""
_MOST_COUNT: Final = 16384
_LOG_COUNT: Final = np.log1p(np.arange(_MOST_COUNT + 1)).astype(np.float32)
_LOG_COUNT_SIGNED: Final = np.concatenate((_LOG_COUNT, -_LOG_COUNT[:0:-1]))
"""sign(c) · log(1 + |c|) of a count c; negative ones count from the end."""
_THREE_BYTES, _FIVE_BYTES = np.uint64((1 << 24) - 1), np.uint64((1 << 40) - 1)
_THREE_LONG, _FIVE_LONG = np.uint64(3 << 56), np.uint64(5 << 56)
_COMMON_WEIGHT: Final = 0.1
"""Inverse document frequency of what stands in every text: a shared preamble must not drown the question."""
_CHUNK: Final = 512


@dataclass(frozen=True)
class HashedNgramsSettings:
    """Settings; the defaults were chosen by cross-validation on public routing sets (docs/evaluation.md)."""

    buckets: int = 8192
    """Number B of hash buckets, a power of two."""
    components: int = 128
    """LSA coordinates kept, at most; fewer when there are fewer texts."""
    structure_weight: float = 0.2
    """Scale of each standardised structural feature beside the unit-length LSA block."""
    head_bytes: int = 1024
    """Bytes read from the start."""
    tail_bytes: int = 1024
    """Bytes read from the end."""
    seed: int = 0
    """Seed of the randomised SVD."""
    version: int = VERSION
    """Of the way texts are hashed and counted; vectors of two versions cannot be compared."""


class HashedNgrams:
    """A fitted encoder; see the module."""

    def __init__(self, settings: HashedNgramsSettings, arrays: Mapping[str, Array]) -> None:
        self._settings = settings
        self._arrays = dict(arrays)
        idf_B = np.asarray(arrays["idf_B"], dtype=np.float32)
        projection_BK = np.asarray(arrays["projection_BK"], dtype=np.float32)
        self._weighted_BK: Matrix = np.ascontiguousarray(idf_B[:, None] * projection_BK, dtype=np.float32)
        self._structure = ScaledStructure(arrays, settings.structure_weight)
        self._hashes = _WordHashes()

    @property
    def dimension(self) -> int:
        """Length of every vector: LSA coordinates, then structural features."""
        return self._weighted_BK.shape[1] + len(FEATURES)

    def encode(self, text: str) -> Vector:
        """Vector of one text."""
        raw = text.encode("utf-8", "replace")
        return np.concatenate((self.topic(self.read(raw)), self.structure(raw)))

    def read(self, raw: bytes) -> Reading:
        """A UTF-8 text cut and split, as others can use it too."""
        return read(raw, self._settings)

    def topic(self, reading: Reading) -> Vector:
        """The first block: LSA coordinates at unit length."""
        bucket, frequency = _hash_row(reading, self._settings.buckets, self._hashes)
        # Not scaled to unit length as when fitting: the product is, and few calls matter more than many numbers.
        topic = frequency @ self._weighted_BK.take(bucket, axis=0)
        length = math.sqrt(topic @ topic)
        if length > 0:
            topic /= length
        return topic

    def structure(self, raw: bytes) -> Vector:
        """The second block: scaled structure of a whole UTF-8 text."""
        return self._structure.of(raw)

    def encode_batch(self, texts: Sequence[str]) -> Matrix:
        """Vectors of many texts."""
        matrix = np.empty((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            matrix[row] = self.encode(text)
        return matrix

    def state(self) -> EncoderState:
        """What to save."""
        return EncoderState(NAME, asdict(self._settings), self._arrays)


@dataclass(frozen=True, slots=True)
class Reading:
    """A text read once: cut to head and tail, and split."""

    cut: bytes
    """UTF-8 as it stands."""
    lowered: bytes
    """The same in lower case."""
    tokens: Sequence[bytes]
    """Its words and marks."""


class _WordHashes(dict[bytes, bytes]):
    """Hashes of words met before, as bytes, to be joined; the memory is bounded."""

    def __missing__(self, word: bytes) -> bytes:
        hashed = (crc32(word) * _WORD_SALT & _ALL_BITS).to_bytes(8, sys.byteorder)
        if len(word) <= _MOST_REMEMBERED_BYTES:
            if len(self) >= _MOST_WORDS:
                self.clear()
            self[word] = hashed
        return hashed


def fit(texts: Sequence[str], parameters: Mapping[str, Scalar]) -> HashedNgrams:
    """Learn document frequencies, LSA directions and feature scales from texts."""
    settings = _settings(parameters)
    raws = [text.encode("utf-8", "replace") for text in texts]
    hashes = _WordHashes()
    rows = [_hash_row(read(raw, settings), settings.buckets, hashes) for raw in raws]
    frequency_B = np.zeros(settings.buckets)
    for bucket, _ in rows:
        frequency_B[bucket] += 1
    idf_B = (np.log((1 + len(rows)) / (1 + frequency_B)) + _COMMON_WEIGHT).astype(np.float32)
    return HashedNgrams(
        settings,
        {
            "idf_B": idf_B,
            "projection_BK": _lsa([_weigh(row, idf_B) for row in rows], settings),
            **ScaledStructure.fit(raws),
        },
    )


def restore(state: EncoderState) -> HashedNgrams:
    """Rebuild from saved state."""
    version = state.parameters.get("version")
    if version != VERSION:
        raise DataError(f"encoder {NAME}: saved by version {version}, this is {VERSION}; fit again")
    settings = _settings(state.parameters)
    idf = state.arrays.get("idf_B")
    if idf is None or idf.shape != (settings.buckets,):
        raise DataError(
            f"encoder {NAME}: array 'idf_B' is missing or not of shape {(settings.buckets,)}; fit again"
        )
    ScaledStructure.check(f"encoder {NAME}", state.arrays)
    projection = state.arrays.get("projection_BK")
    if projection is None or projection.ndim != 2 or projection.shape[0] != settings.buckets:
        raise DataError(f"encoder {NAME}: array 'projection_BK' is missing or misshapen; fit again")
    return HashedNgrams(settings, state.arrays)


KIND: Final = EncoderKind(fit=fit, restore=restore)


def _settings(parameters: Mapping[str, Scalar]) -> HashedNgramsSettings:
    settings = read_settings(f"encoder {NAME}", HashedNgramsSettings(), parameters)
    if settings.buckets < 2 or settings.buckets & (settings.buckets - 1):
        raise ConfigError(f"encoder {NAME}: buckets={settings.buckets} must be a power of two")
    if settings.components < 0 or settings.head_bytes < 1 or settings.tail_bytes < 0:
        raise ConfigError(f"encoder {NAME}: components, head_bytes and tail_bytes cannot be negative")
    return settings


def read(raw: bytes, settings: HashedNgramsSettings) -> Reading:
    """A UTF-8 text cut and split."""
    if len(raw) > settings.head_bytes + settings.tail_bytes:
        raw = raw[: settings.head_bytes] + b" " + raw[len(raw) - settings.tail_bytes :]
    if raw.isascii():
        lowered = raw.lower()
        return Reading(raw, lowered, _TOKEN_ASCII.findall(lowered))
    text = raw.decode("utf-8", "replace").lower()
    return Reading(raw, text.encode(), [*map(str.encode, _TOKEN.findall(text))])


def _hash_row(reading: Reading, buckets: int, hashes: _WordHashes) -> tuple[NDArray[np.intp], Vector]:
    """Buckets in use and their signed, sublinear term frequencies."""
    key = _keys(reading, hashes)
    key *= _MIX
    # The top bits of a product depend on all bits of the key: B buckets and one bit for the sign.
    key >>= np.uint64(64 - buckets.bit_length())
    code = key.view(np.int64)
    sign = _SIGNS.take(code & 1)
    code >>= 1
    # Weighted counts are floats, which numpy's types do not say.
    count_B = cast("NDArray[np.float64]", np.bincount(code, weights=sign, minlength=buckets))
    # Comparing first is 15 times quicker than asking for the nonzero entries of floats.
    used: NDArray[np.intp] = (count_B != 0).nonzero()[0]
    count: NDArray[np.float64] = count_B.take(used)
    return used, _sublinear(count.astype(np.intp), len(key))


def _keys(reading: Reading, hashes: _WordHashes) -> NDArray[np.uint64]:
    """Every run of three and of five bytes, every word and every pair of neighbouring words as a number.

    Runs are read from overlapping windows of eight bytes. A longer one ending in zero bytes would equal the shorter
    one, so its length stands in the top byte.
    """
    places, words = len(reading.lowered) + 2, len(reading.tokens)
    window = (
        np.ndarray((places,), "<u8", b" " + reading.lowered + b" " + bytes(8), strides=(1,)) & _FIVE_BYTES
    )
    threes, fives = places - 2, max(places - 4, 0)
    key = np.empty(threes + fives + words + max(words - 1, 0), dtype=np.uint64)
    runs, pairs = threes + fives, threes + fives + words
    np.bitwise_and(window[:threes], _THREE_BYTES, out=key[:threes])
    key[:threes] += _THREE_LONG
    np.add(window[:fives], _FIVE_LONG, out=key[threes:runs])
    word = np.frombuffer(b"".join(map(hashes.__getitem__, reading.tokens)), dtype=np.uint64)
    key[runs:pairs] = word
    np.multiply(word[:-1], _STEP, out=key[pairs:])
    key[pairs:] += word[1:]
    return key


def _sublinear(count: NDArray[np.intp], most: int) -> Vector:
    """sign(c) · log(1 + |c|)."""
    if most <= _MOST_COUNT:
        return _LOG_COUNT_SIGNED.take(count)
    size = np.log1p(np.abs(count)).astype(np.float32)
    return np.where(count < 0, -size, size)


def _weigh(row: tuple[NDArray[np.intp], Vector], idf_B: Vector) -> tuple[NDArray[np.intp], Vector]:
    bucket, frequency = row
    weight = frequency * idf_B[bucket]
    weight /= max(math.sqrt(weight @ weight), 1e-12)
    return bucket, weight


def _lsa(rows: Sequence[tuple[NDArray[np.intp], Vector]], settings: HashedNgramsSettings) -> Matrix:
    """Leading right singular vectors of the row matrix, by subspace iteration (Halko et al. 2011, algorithm 4.4).

    Rows are made dense a chunk at a time, so memory does not grow with the number of texts.
    """
    components = min(settings.components, len(rows))
    if components == 0:
        return np.zeros((settings.buckets, 0), dtype=np.float32)
    rng = np.random.default_rng(settings.seed)
    spare = min(components + 16, len(rows), settings.buckets)
    basis_BS = rng.standard_normal((settings.buckets, spare)).astype(np.float32)
    for _ in range(4):
        basis_BS = np.linalg.qr(_gram_times(rows, basis_BS))[0]
    image_SS = basis_BS.T @ _gram_times(rows, basis_BS)
    value_S, turn_SS = np.linalg.eigh(((image_SS + image_SS.T) / 2).astype(np.float64))
    kept = np.argsort(value_S)[::-1][:components]
    kept = kept[value_S[kept] > value_S.max() * 1e-7]
    # A singular vector's sign is arbitrary; fix it so that equal data give equal files.
    projection_BK = basis_BS @ turn_SS[:, kept]
    largest = projection_BK[np.abs(projection_BK).argmax(axis=0), np.arange(len(kept))]
    return (projection_BK * np.where(largest < 0, -1.0, 1.0)).astype(np.float32)


def _gram_times(rows: Sequence[tuple[NDArray[np.intp], Vector]], right_BS: Matrix) -> Matrix:
    """(XᵀX)·right over chunks of rows of X."""
    total_BS = np.zeros_like(right_BS)
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        dense_RB = np.zeros((len(chunk), right_BS.shape[0]), dtype=np.float32)
        for index, (bucket, weight) in enumerate(chunk):
            dense_RB[index, bucket] = weight
        total_BS += dense_RB.T @ (dense_RB @ right_BS)
    return total_BS
