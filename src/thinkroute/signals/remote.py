"""Vectors from a server that speaks OpenAI's `/v1/embeddings`: vLLM, llama.cpp, a hosted model.

Owns the calls, their time limit, and a cache of the texts last seen. Vectors are scaled to unit length. A failure is an
`EngineError` that names the endpoint; nothing is made up in its place. The same text gives the same vector as long
as it stays in the cache; beyond that the server answers for it.

`encode` waits for the network. Whoever must not wait awaits `prefetch` first: the texts are in the cache then.
The API key is written as a reference to the environment, because settings are saved with every router.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import threading
import weakref
from collections import OrderedDict
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
import numpy as np

from thinkroute.errors import ConfigError, EngineProtocolError, EngineTimeout, EngineUnavailable
from thinkroute.signals.base import Encoder, EncoderKind, EncoderState, Matrix, Scalar, Vector
from thinkroute.signals.cut import head_and_tail
from thinkroute.signals.settings import read_settings

NAME: Final = "remote"
_KEY: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_MOST_REPLY_BYTES: Final = 64 * 1024 * 1024
_SHOWN_CHARS: Final = 200
T = TypeVar("T")


@dataclass(frozen=True)
class RemoteSettings:
    """Settings; `url` and `model` have no default."""

    url: str = ""
    """API root, e.g. http://127.0.0.1:8000/v1"""
    model: str = ""
    """Name the server knows the embedding model by."""
    api_key: str = ""
    """A reference to the environment, e.g. ${EMBEDDINGS_KEY}; empty: no key is sent."""
    timeout_s: float = 2.0
    """Limit of one call, everything included."""
    cache_size: int = 4096
    """Texts whose vectors are kept; the one longest unused goes first."""
    batch_size: int = 64
    """Texts per call, at most."""
    dimension: int = 0
    """Length of the vectors; 0 asks the server once, when fitting."""
    head_bytes: int = 4096
    """Bytes sent from the start."""
    tail_bytes: int = 4096
    """Bytes sent from the end."""


class _Item(msgspec.Struct):
    index: int
    embedding: list[float]


class _Reply(msgspec.Struct):
    data: list[_Item]


class RemoteEncoder:
    """A fitted encoder; see the module. Close it, or let the process end."""

    def __init__(self, settings: RemoteSettings) -> None:
        self.settings = settings
        """Settings with the dimension known."""
        self._endpoint = _Endpoint(settings)
        self._cache: OrderedDict[str, Vector] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def dimension(self) -> int:
        """Length of every vector."""
        return self.settings.dimension

    def encode(self, text: str) -> Vector:
        """Vector of one text, from the cache or the server."""
        return self.encode_batch((text,))[0]

    def encode_batch(self, texts: Sequence[str]) -> Matrix:
        """Vectors of many texts; those not in the cache are asked for in batches, one after the other."""
        sent = [self._cut(text) for text in texts]
        found = self._cached(sent)
        for batch in self._batches(sent, found):
            self._keep(found, batch, self._endpoint.submit(batch).result())
        return self._stacked(sent, found)

    async def prefetch(self, texts: Sequence[str]) -> None:
        """Bring the texts into the cache without holding up the running loop."""
        sent = [self._cut(text) for text in texts]
        found = self._cached(sent)
        for batch in self._batches(sent, found):
            self._keep(found, batch, await asyncio.wrap_future(self._endpoint.submit(batch)))

    def state(self) -> EncoderState:
        """What to save: settings alone, and of the key only where it stands."""
        return EncoderState(NAME, asdict(self.settings))

    def close(self) -> None:
        """Close the connections; the encoder cannot be used any more."""
        self._endpoint.close()

    def _cut(self, text: str) -> str:
        return head_and_tail(text, self.settings.head_bytes, self.settings.tail_bytes).decode(
            "utf-8", "ignore"
        )

    def _cached(self, sent: Sequence[str]) -> dict[str, Vector]:
        found: dict[str, Vector] = {}
        with self._lock:
            for text in sent:
                if text in self._cache:
                    self._cache.move_to_end(text)
                    found[text] = self._cache[text]
        return found

    def _batches(self, sent: Sequence[str], found: Mapping[str, Vector]) -> list[list[str]]:
        missing = [text for text in dict.fromkeys(sent) if text not in found]
        size = self.settings.batch_size
        return [missing[start : start + size] for start in range(0, len(missing), size)]

    def _keep(self, found: dict[str, Vector], texts: Sequence[str], vectors_QD: Matrix) -> None:
        if vectors_QD.shape[1] != self.dimension:
            raise EngineProtocolError(
                f"{self._endpoint.name} gave vectors of length {vectors_QD.shape[1]}, not {self.dimension}: "
                "is it another model than the router was fitted with?"
            )
        # Copies: a view would keep the vectors of its whole batch in memory.
        fresh = {text: vector_D.copy() for text, vector_D in zip(texts, vectors_QD, strict=True)}
        found.update(fresh)
        with self._lock:
            self._cache.update(fresh)
            while len(self._cache) > self.settings.cache_size:
                self._cache.popitem(last=False)

    def _stacked(self, sent: Sequence[str], found: Mapping[str, Vector]) -> Matrix:
        matrix_QD = np.empty((len(sent), self.dimension), dtype=np.float32)
        for row, text in enumerate(sent):
            matrix_QD[row] = found[text]
        return matrix_QD


class _Line:
    """A session on a loop in a thread of its own, so that callers need no loop and may have one."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers
        self._loop = asyncio.new_event_loop()
        self._session: aiohttp.ClientSession | None = None
        self._closings = itertools.count()
        threading.Thread(target=self._run, name="thinkroute-embeddings", daemon=True).start()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start work on the line's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def session(self) -> aiohttp.ClientSession:
        """The session; only for work on the line's loop."""
        if self._session is None:
            self._session = aiohttp.ClientSession(headers=self._headers)
        return self._session

    def close(self) -> None:
        """Close the session and end the thread; a second time does nothing."""
        # A counter and no lock: this also runs as a finalizer, in any thread at any place. Stopping twice would
        # end the loop while it still closes the session.
        if next(self._closings) == 0:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self) -> None:
        self._loop.run_forever()
        if self._session is not None:
            self._loop.run_until_complete(self._session.close())
        self._loop.close()


class _Endpoint:
    """The server, and what it may answer."""

    def __init__(self, settings: RemoteSettings) -> None:
        self.name = f"the embeddings endpoint {settings.url} (model {settings.model!r})"
        self._settings = settings
        self._headers = _headers(settings)
        self._opening = threading.Lock()
        self._opened: _Line | None = None

    def submit(self, texts: Sequence[str]) -> Future[Matrix]:
        """Start asking for the unit vectors of some texts."""
        line = self._line()
        return line.submit(self._ask(line, texts))

    def close(self) -> None:
        """End the line, if one was opened."""
        if self._opened is not None:
            self._opened.close()

    def _line(self) -> _Line:
        # No thread before the first call: loading a router opens nothing.
        with self._opening:
            if self._opened is None:
                self._opened = _Line(self._headers)
                weakref.finalize(self, self._opened.close)
            return self._opened

    async def _ask(self, line: _Line, texts: Sequence[str]) -> Matrix:
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                raw = await self._post(line.session(), texts)
        except TimeoutError as error:
            raise EngineTimeout(f"{self.name} gave no answer within {self._settings.timeout_s} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise EngineUnavailable(f"{self.name} cannot be asked: {error}") from error
        return self._read(raw, len(texts))

    async def _post(self, session: aiohttp.ClientSession, texts: Sequence[str]) -> bytes:
        body = {"model": self._settings.model, "input": list(texts), "encoding_format": "float"}
        try:
            return await self._attempt(session, body)
        except aiohttp.ServerDisconnectedError:
            # A kept connection that the server had closed meanwhile; a fresh one cannot be stale.
            return await self._attempt(session, body)

    async def _attempt(self, session: aiohttp.ClientSession, body: Mapping[str, object]) -> bytes:
        address = self._settings.url.rstrip("/") + "/embeddings"
        # No redirects: they would carry the key to wherever the server points.
        async with session.post(address, json=body, allow_redirects=False) as response:
            raw = bytearray()
            async for chunk in response.content.iter_chunked(1 << 16):
                raw += chunk
                if len(raw) > _MOST_REPLY_BYTES:
                    raise EngineProtocolError(f"{self.name} answered with over {_MOST_REPLY_BYTES} bytes")
            if response.status != 200:
                said = raw[:_SHOWN_CHARS].decode("utf-8", "replace")
                raise EngineUnavailable(f"{self.name} answered {response.status}: {said}", reached=True)
            return bytes(raw)

    def _read(self, raw: bytes, count: int) -> Matrix:
        try:
            reply = msgspec.json.decode(raw, type=_Reply)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise EngineProtocolError(f"{self.name} gave no list of embeddings: {error}") from error
        by_place = {item.index: item.embedding for item in reply.data}
        lengths = {len(vector) for vector in by_place.values()}
        if sorted(by_place) != list(range(count)) or len(lengths) != 1 or 0 in lengths:
            raise EngineProtocolError(
                f"{self.name} gave {len(reply.data)} vectors for {count} texts, or uneven ones"
            )
        matrix_QD = np.array([by_place[place] for place in range(count)], dtype=np.float64)
        length_Q1 = np.linalg.norm(matrix_QD, axis=1, keepdims=True)
        return (matrix_QD / np.maximum(length_Q1, 1e-12)).astype(np.float32)


def fit(texts: Sequence[str], parameters: Mapping[str, Scalar]) -> Encoder:
    """Check the settings and, where the dimension is not given, ask the server for one vector."""
    settings = _settings(parameters)
    if settings.dimension == 0:
        probe = _Endpoint(settings)
        try:
            settings = replace(settings, dimension=probe.submit(["dimension"]).result().shape[1])
        finally:
            probe.close()
    return RemoteEncoder(settings)


def restore(state: EncoderState) -> Encoder:
    """Rebuild from saved settings; the server is not asked."""
    return RemoteEncoder(_settings(state.parameters))


KIND: Final = EncoderKind(fit=fit, restore=restore)


def _settings(parameters: Mapping[str, Scalar]) -> RemoteSettings:
    settings = read_settings(f"encoder {NAME}", RemoteSettings(), parameters)
    if not settings.url.startswith(("http://", "https://")):
        raise ConfigError(
            f"encoder {NAME}: url={settings.url!r} must be an API root such as http://127.0.0.1:8000/v1"
        )
    if not settings.model:
        raise ConfigError(f"encoder {NAME}: model is not set: name the server's embedding model")
    if settings.api_key and not _KEY.fullmatch(settings.api_key):
        raise ConfigError(
            f"encoder {NAME}: api_key must be a reference such as ${{EMBEDDINGS_KEY}}: settings are saved with routers"
        )
    if settings.timeout_s <= 0 or settings.batch_size < 1 or settings.cache_size < settings.batch_size:
        raise ConfigError(
            f"encoder {NAME}: timeout_s and batch_size must be positive, and cache_size at least batch_size"
        )
    if settings.dimension < 0 or settings.head_bytes < 1 or settings.tail_bytes < 0:
        raise ConfigError(
            f"encoder {NAME}: dimension and tail_bytes cannot be negative, head_bytes must be positive"
        )
    return settings


def _headers(settings: RemoteSettings) -> dict[str, str]:
    match = _KEY.fullmatch(settings.api_key)
    if match is None:
        return {}
    key = os.environ.get(match.group(1))
    if not key:
        raise ConfigError(f"encoder {NAME}: api_key refers to {settings.api_key}, which is not set")
    return {"Authorization": f"Bearer {key}"}
