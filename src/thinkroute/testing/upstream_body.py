"""Bodies of the fake upstream: what a server of OpenAI's dialect writes for a scripted reply.

Owns: how a request's fields shape the reply (thinking flags, caps, budgets, continuation) and which dialect quirks
are played. Does not own sockets, nor failing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import orjson

from thinkroute.testing.reply import THINKING, Reply, tokens
from thinkroute.types import Channel
from thinkroute.wire.raw_prompt import text_of
from thinkroute.wire.sse import DONE, render_json
from thinkroute.wire.thinking import Piece, ThinkingSplitter

ReasoningField = Literal["reasoning", "reasoning_content", "inline"]
_BUDGET_FIELDS = ("thinking_token_budget", "thinking_budget_tokens")
_ASSISTANT = "<|im_start|>assistant\n"


@dataclass(frozen=True, slots=True)
class Quirks:
    """How servers differ."""

    reasoning_field: ReasoningField = "reasoning_content"
    reports_usage: bool = True
    echoes_prefill: bool = False
    """Repeats the message it continues, as llama.cpp's server does."""
    mislabels_answer: bool = False
    """Calls the answer reasoning after a prefix that closed the block, as vLLM's parsers do."""
    closes_after_stream: bool = False
    """Closes the connection after a stream without saying so beforehand, as llama.cpp's server does."""
    rejects_unknown_fields: bool = False
    """Answers 422 to fields outside OpenAI's own."""


class Completion:
    """One reply shaped by one request."""

    def __init__(self, request: Mapping[str, Any], reply: Reply, quirks: Quirks, *, chat: bool) -> None:
        self._request = request
        self._reply = reply
        self._quirks = quirks
        self._chat = chat
        self._prefix = _prefix(request, chat=chat)
        text = _within_budget(reply, request).continuation(self._prefix, thinks=thinks(request))
        said = tokens(text)
        cap = request.get("max_completion_tokens") or request.get("max_tokens")
        cut = cap is not None and cap < len(said)
        self._said: list[str] = said[:cap] if cut else said
        self._finish = "length" if cut else "tool_calls" if reply.tool_calls else reply.finish
        self._thought = 0

    def events(self) -> list[bytes]:
        """The events of a streamed reply, `[DONE]` included."""
        deltas = [self._fields([piece]) for piece in self._pieces()]
        events = [self._chunk({"role": "assistant", "content": ""})] if self._chat else []
        events += [self._chunk(delta) for delta in deltas]
        if self._finish == "tool_calls":
            events += [
                self._chunk({"tool_calls": [_tool_delta(i, c)]}) for i, c in enumerate(self._reply.tool_calls)
            ]
        events.append(self._chunk({}, finish=self._finish))
        if self._quirks.reports_usage and _options(self._request).get("include_usage"):
            events.append(
                render_json(orjson.dumps({**self._head("chunk"), "choices": [], "usage": self._usage()}))
            )
        return [*events, DONE]

    def body(self) -> bytes:
        """The body of a reply that is not streamed."""
        message: dict[str, Any] = {"role": "assistant", "content": "", **self._fields(self._pieces())}
        if self._finish == "tool_calls":
            message["tool_calls"] = list(self._reply.tool_calls)
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": self._finish,
            "logprobs": self._logprobs(self._said),
        }
        choice |= {"message": message} if self._chat else {"text": message["content"]}
        usage = {"usage": self._usage()} if self._quirks.reports_usage else {}
        return orjson.dumps({**self._head(""), "choices": [choice], **usage})

    def _pieces(self) -> list[Piece]:
        """Each token as its server would label it."""
        closed = THINKING.close_tag in self._prefix
        if self._quirks.reasoning_field == "inline" or not self._chat:
            self._count_thought(closed=closed)
            pieces = _labelled("answer", self._said)
        elif closed and self._quirks.mislabels_answer:
            pieces = _labelled("reasoning", self._said)
            self._thought = len(self._said)  # the count follows the label
        else:
            pieces = self._count_thought(closed=closed)
        echo = [self._prefix] if self._quirks.echoes_prefill and self._prefix else []
        return _labelled("answer", echo) + pieces

    def _count_thought(self, *, closed: bool) -> list[Piece]:
        splitter = ThinkingSplitter(THINKING, "reasoning" if self._prefix and not closed else "answer")
        pieces: list[Piece] = []
        for token in self._said:
            before = splitter.thinking
            pieces += _labelled("answer", [token]) if closed else splitter.feed(token)
            self._thought += (before or splitter.thinking) and not closed
        return pieces + splitter.close()

    def _fields(self, pieces: Sequence[Piece]) -> dict[str, str]:
        fields: dict[str, str] = {}
        for channel, text in pieces:
            field = "content" if channel == "answer" else self._quirks.reasoning_field
            fields[field] = fields.get(field, "") + text
        return fields

    def _chunk(self, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        text = delta.get("content", "")
        said = [delta[name] for name in ("reasoning", "reasoning_content", "content") if delta.get(name)]
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "logprobs": self._logprobs(said)}
        choice |= {"delta": delta} if self._chat else {"text": text}
        return render_json(orjson.dumps({**self._head("chunk"), "choices": [choice]}))

    def _head(self, suffix: str) -> dict[str, Any]:
        kind = "chat.completion" if self._chat else "text_completion"
        return {
            "id": "fake-1",
            "object": f"{kind}.{suffix}" if suffix and self._chat else kind,
            "created": 1,
            "model": self._request.get("model"),
            "system_fingerprint": "fp_fake",
        }

    def _logprobs(self, said: Sequence[str]) -> dict[str, Any] | None:
        if not self._request.get("logprobs") or not said:
            return None
        if not self._chat:
            likeliest = [{token: -0.25} for token in said]
            return {
                "tokens": list(said),
                "token_logprobs": [-0.25] * len(said),
                "top_logprobs": likeliest,
                "text_offset": list(accumulate((len(token) for token in said[:-1]), initial=0)),
            }
        entries = [
            {"token": t, "logprob": -0.25, "bytes": list(t.encode()), "top_logprobs": []} for t in said
        ]
        return {"content": entries}

    def _usage(self) -> dict[str, Any]:
        messages = self._request.get("messages") or [{"content": self._request.get("prompt")}]
        prompt = sum(len(tokens(text_of(message.get("content")) or "")) for message in messages)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": len(self._said),
            "total_tokens": prompt + len(self._said),
            "completion_tokens_details": {"reasoning_tokens": self._thought},
        }


def _options(request: Mapping[str, Any]) -> Mapping[str, Any]:
    return request.get("stream_options") or {}


def _labelled(channel: Channel, texts: Sequence[str]) -> list[Piece]:
    return [(channel, text) for text in texts]


def thinks(request: Mapping[str, Any]) -> bool:
    """Whether a request lets the model think."""
    flags: Mapping[str, Any] = request.get("chat_template_kwargs") or {}
    switched_off = flags.get("enable_thinking") is False or flags.get("thinking") is False
    return not switched_off and request.get("reasoning_effort") != "none"


def _prefix(request: Mapping[str, Any], *, chat: bool) -> str:
    if not chat:
        return str(request.get("prompt", "")).rpartition(_ASSISTANT)[2]
    if not request.get("continue_final_message"):
        return ""
    return text_of(request["messages"][-1].get("content")) or ""


def _within_budget(reply: Reply, request: Mapping[str, Any]) -> Reply:
    budget = next((request[field] for field in _BUDGET_FIELDS if field in request), None)
    if budget is None:
        return reply
    return Reply(
        reply.answer, "".join(tokens(reply.reasoning)[:budget]).rstrip(), reply.finish, reply.tool_calls
    )


def _tool_delta(index: int, call: Mapping[str, Any]) -> dict[str, Any]:
    return {"index": index, **call}
