"""A vLLM server as training needs it: prompts and answers as exact token ids, and new weights when they change.

Owns the requests, what is asked of a server before a run trusts it, and naming every failure. Does not own tokenizing or
segments (`vllm_sampler`).

Uses of vLLM's HTTP interface, proved with 0.32.0 on a CPU: `/v1/completions` with `return_token_ids`, `/v1/models`,
`/tokenize`, and for new weights `/collective_rpc` (`reload_weights`) and `/reset_prefix_cache`, which a server offers that
was started with `VLLM_SERVER_DEV_MODE=1`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec
import orjson

from thinkroute.catalog import Model, family_named
from thinkroute.engines.http_reply import LIMIT_BYTES, read_bounded, translated
from thinkroute.errors import ConfigError, EngineProtocolError, EngineRejected
from thinkroute.wire.openai_chat.upstream_errors import rejection

_CONNECT_TIMEOUT_S = 10.0
_PROBE_TEMPERATURES = (0.5, 2.0)
_SAME = 1e-4
"""Log-probabilities closer than this are the same one."""
_ALL_TOKENS: Mapping[str, Any] = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""Said each time: else a server applies what the checkpoint's generation_config.json recommends."""
_Reply = TypeVar("_Reply")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is, and how it is asked."""

    model: str
    """What programs call the model by."""
    url: str
    """API root, ending in /v1."""
    upstream_name: str | None = None
    """What the server calls the model; None: the only one it has."""
    requests_at_once: int = 64
    request_timeout_s: float = 600.0
    section: str = "model"
    """The part of a training file that names it."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a server generated behind a prompt."""

    ids: tuple[int, ...]
    stopped: bool
    """False where it ran into the cap or the end of its window."""
    logprobs: tuple[float, ...] = ()
    """One per id, under the distribution it was drawn from; empty unless asked for."""
    tops: tuple[Mapping[int, float], ...] = ()
    """Per id, the likeliest ids with their log-probabilities."""


class _Card(msgspec.Struct):
    id: str
    max_model_len: int | None = None


class _Cards(msgspec.Struct):
    data: list[_Card]


class _Tokens(msgspec.Struct):
    tokens: list[int]


class _Reset(msgspec.Struct):
    success: bool


class _Logprobs(msgspec.Struct):
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]


class _Choice(msgspec.Struct):
    finish_reason: str | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None


class _Choices(msgspec.Struct):
    choices: list[_Choice]


class VllmServer:
    """One model of one server, with whatever weights it holds.

    Args:
        address: Where it is.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._root = address.url.rstrip("/").removesuffix("/v1")
        self._model = Model(
            name=address.model,
            upstream_name=address.upstream_name or "",
            engine="http",
            family=family_named("plain"),
            base_url=address.url,
            connect_timeout_s=_CONNECT_TIMEOUT_S,
            total_timeout_s=address.request_timeout_s,
        )
        self.window: int | None = None
        """Tokens of prompt and answer; None until `connect`, or where the server does not say."""

    def connect(self, probe: str, probe_ids: Sequence[int]) -> None:
        """Find the model, and see that it cuts a text into the same ids as the learner's tokenizer.

        Raises:
            ConfigError: another model, or another tokenizer.
            EngineError: the server cannot be reached, or is no vLLM.
        """
        cards = self._ask([("GET", "/v1/models", None)], _Cards)[0].data
        card = self._card(cards)
        self._model = replace(self._model, upstream_name=card.id)
        self.window = card.max_model_len
        request = {"model": card.id, "prompt": probe, "add_special_tokens": False}
        theirs = self._ask([("POST", "/tokenize", request)], _Tokens)[0].tokens
        if theirs != list(probe_ids):
            raise ConfigError(
                f"{self._address.url} cuts {probe!r} into other tokens than the learner's tokenizer: ids are handed "
                "over as they are, so both need the same one",
                param=f"{self._address.section}.url",
            )

    def check_logprobs(self, prompt: Sequence[int]) -> None:
        """See that the server reports log-probabilities of what it draws from, the temperature included.

        Raises:
            ConfigError: it reports those of temperature 1, whatever it draws with.
        """
        bodies = [
            {"prompt": list(prompt), "max_tokens": 1, "temperature": temperature, "logprobs": 1}
            for temperature in _PROBE_TEMPERATURES
        ]
        sharp, flat = (max(made.tops[0].values()) for made in self.complete(bodies))
        if abs(sharp - flat) < _SAME:
            raise ConfigError(
                f"{self._address.url} reports log-probabilities before the temperature, but the loss needs those that "
                "tokens are drawn with: start vLLM with --logprobs-mode processed_logprobs",
                param=f"{self._address.section}.url",
            )

    def complete(self, bodies: Sequence[Mapping[str, Any]]) -> list[Completion]:
        """Answer requests to `/v1/completions`, each with a prompt of ids, several at once; in order.

        Raises:
            EngineError: a request failed, or the answer does not say exactly what was generated.
        """
        named = {
            "model": self._model.upstream_name,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
        }
        requests = [{**_ALL_TOKENS, **body, **named} for body in bodies]
        replies = self._ask([("POST", "/v1/completions", request) for request in requests], _Choices)
        return [self._completion(body, reply) for body, reply in zip(bodies, replies, strict=True)]

    def reload(self, folder: Path) -> None:
        """Let the server take the weights in a folder, which it must see under the same path.

        Raises:
            ConfigError: it was not started in a way that lets it.
            EngineError: it cannot be reached, or could not take them.
        """
        request = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
        try:
            self._ask([("POST", "/collective_rpc", request)])
            # Keys and values of known prefixes are those of the old weights.
            reset = self._ask([("POST", "/reset_prefix_cache", None)], _Reset)[0]
        except EngineRejected as refusal:
            if refusal.status in (404, 405):
                raise ConfigError(
                    f"{self._address.url} cannot be given new weights, so its rollouts would be another model's: "
                    "start vLLM with VLLM_SERVER_DEV_MODE=1",
                    param=f"{self._address.section}.url",
                ) from refusal
            raise EngineRejected(
                f"{refusal.message}; the weights lie in {folder}, which the server must see under the same path, and "
                "it must have been started with a checkpoint of the same architecture",
                status=refusal.status,
                body=refusal.body,
            ) from refusal
        if not reset.success:
            raise self._nonsense(
                "keeps prefixes of the old weights: somebody else is asking it, and it must be this run's alone"
            )

    def _card(self, cards: Sequence[_Card]) -> _Card:
        wanted = self._address.upstream_name
        names = ", ".join(card.id for card in cards) or "none"
        if wanted is None and len(cards) != 1:
            raise ConfigError(
                f"{self._address.url} has several models or none ({names}): name one of them",
                param=f"{self._address.section}.upstream_name",
            )
        for card in cards:
            if wanted in (None, card.id):
                return card
        raise ConfigError(
            f"{self._address.url} has no model {wanted!r}; it has: {names}",
            param=f"{self._address.section}.upstream_name",
        )

    def _completion(self, body: Mapping[str, Any], reply: _Choices) -> Completion:
        choice = reply.choices[0] if reply.choices else _Choice()
        if choice.token_ids is None or choice.prompt_token_ids is None:
            raise self._nonsense(
                "named no token ids, and text is never encoded again: it must be vLLM, 0.10 or newer"
            )
        if choice.prompt_token_ids != body["prompt"]:
            raise self._nonsense("continued other ids than it was given")
        if choice.finish_reason not in ("stop", "length"):
            raise self._nonsense(f"ended an answer by {choice.finish_reason!r}")
        completion = Completion(tuple(choice.token_ids), choice.finish_reason == "stop")
        if body.get("logprobs") is None:
            return completion
        if choice.logprobs is None or len(choice.logprobs.token_logprobs) != len(choice.token_ids):
            raise self._nonsense("did not name one log-probability per token")
        tops = tuple(
            {int(token.removeprefix("token_id:")): logprob for token, logprob in top.items()}
            for top in choice.logprobs.top_logprobs
        )
        return replace(completion, logprobs=tuple(choice.logprobs.token_logprobs), tops=tops)

    def _nonsense(self, what: str) -> EngineProtocolError:
        return EngineProtocolError(f"model {self._model.name!r}: {self._address.url} {what}")

    def _ask(
        self, requests: Sequence[tuple[str, str, Mapping[str, Any] | None]], kind: type[_Reply] | None = None
    ) -> list[_Reply]:
        """The decoded answers to (method, path, body), in order; none where no kind of answer is expected."""

        async def every() -> list[bytes]:
            slots = asyncio.Semaphore(self._address.requests_at_once)
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
                return await _together([lambda r=r: self._fetch(session, slots, *r) for r in requests])

        bodies = asyncio.run(every())
        try:
            return [msgspec.json.decode(body, type=kind) for body in bodies] if kind else []
        except msgspec.MsgspecError as error:
            raise self._nonsense(f"answered with something else than vLLM: {error}") from None

    async def _fetch(
        self,
        session: aiohttp.ClientSession,
        slots: asyncio.Semaphore,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
    ) -> bytes:
        limits = aiohttp.ClientTimeout(total=self._address.request_timeout_s, connect=_CONNECT_TIMEOUT_S)
        data = None if body is None else orjson.dumps(body)
        headers = {"Content-Type": "application/json"}
        async with slots:
            with translated(self._model):
                request = session.request(
                    method, self._root + path, data=data, headers=headers, timeout=limits
                )
                async with request as response:
                    answer = await read_bounded(response, b"", LIMIT_BYTES, self._model)
                    if response.status != 200:
                        raise rejection(self._model, response.status, answer)
        return answer


async def _together(makers: Sequence[Callable[[], Awaitable[bytes]]]) -> list[bytes]:
    """All results in order; the first failure cancels the others and is raised."""

    async def one(make: Callable[[], Awaitable[bytes]]) -> bytes:
        return await make()

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(make)) for make in makers]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
