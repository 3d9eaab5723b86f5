"""Talking to the gateway in front of a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from tokenizers import Tokenizer

from tests.real_engines.servers import tail

_REQUESTS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer through the gateway."""

    thought: str
    content: str
    finish: str
    usage: Mapping[str, Any]
    thinkroute: Mapping[str, Any]
    logprobs: list[dict[str, Any]]

    @property
    def thought_tokens(self) -> int:
        return self.usage["completion_tokens_details"]["reasoning_tokens"]

    @property
    def generated_tokens(self) -> int:
        return self.usage["completion_tokens"]


@dataclass(frozen=True, slots=True)
class RealEngine:
    """A real server and the gateway in front of it."""

    name: str
    url: str
    """The server itself."""
    gateway: str
    member: Path
    log: Path

    def tokens(self, text: str) -> int:
        """How many tokens of the member a text is."""
        return len(Tokenizer.from_file(str(self.member / "tokenizer.json")).encode(text).ids)

    async def token_ids(self, text: str) -> list[int]:
        """How the server itself cuts a text."""
        names = {"vllm": "prompt", "llama.cpp": "content"}
        request = {names[self.name]: text, "add_special_tokens": False, "parse_special": True}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.url}/tokenize", json=request) as response,
        ):
            return (await response.json())["tokens"]

    async def post(self, **fields: Any) -> tuple[int, Any]:
        """Status and body of one request to the gateway, greedy."""
        address = f"{self.gateway}/v1/chat/completions"
        async with (
            aiohttp.ClientSession() as session,
            session.post(address, json={"temperature": 0, **fields}) as response,
        ):
            return response.status, await response.json()

    async def ask(self, question: str, **fields: Any) -> Reply:
        """One question through the gateway."""
        status, body = await self.post(messages=[{"role": "user", "content": question}], **fields)
        assert status == 200, f"{body}\n{tail(self.log)}"
        choice = body["choices"][0]
        return Reply(
            choice["message"].get("reasoning_content", ""),
            choice["message"]["content"],
            choice["finish_reason"],
            body["usage"],
            body["thinkroute"],
            choice["logprobs"]["content"] if choice["logprobs"] else [],
        )

    async def ask_all(self, questions: Sequence[str], **fields: Any) -> list[Reply]:
        """Many questions, a few at a time."""
        slots = asyncio.Semaphore(_REQUESTS_AT_ONCE)

        async def one(question: str) -> Reply:
            async with slots:
                return await self.ask(question, **fields)

        return await asyncio.gather(*(one(question) for question in questions))

    async def stream(self, question: str, **fields: Any) -> list[dict[str, Any]]:
        """The events of a streamed answer; the terminator is checked and left out."""
        messages = [{"role": "user", "content": question}]
        request = {"messages": messages, "temperature": 0, "stream": True, **fields}
        address = f"{self.gateway}/v1/chat/completions"
        async with aiohttp.ClientSession() as session, session.post(address, json=request) as response:
            lines = [line.strip() async for line in response.content if line.strip()]
            assert response.status == 200, f"{lines}\n{tail(self.log)}"
        assert lines.pop() == b"data: [DONE]"
        return [json.loads(line.removeprefix(b"data: ")) for line in lines]


def deltas(events: Sequence[Mapping[str, Any]], field: str) -> list[str]:
    """The pieces of one field of a streamed message."""
    choices = [choice for event in events for choice in event["choices"]]
    return [piece for choice in choices if (piece := choice["delta"].get(field))]


def logprobs_of(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The log-probability entries of all events."""
    objects: list[dict[str, Any] | None] = [
        choice.get("logprobs") for event in events for choice in event["choices"]
    ]
    entries: list[dict[str, Any]] = []
    for found in objects:
        entries += found["content"] if found else []
    return entries
