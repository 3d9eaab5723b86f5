"""OpenAI Chat Completions, answering the caller: whole answers, streams, errors in both, usage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import orjson

from thinkroute.errors import ThinkrouteError, http_status
from thinkroute.programs.driver import Delta
from thinkroute.programs.protocol import TokenLogprob, Upstream
from thinkroute.types import Usage
from thinkroute.wire import sse


def render_error(error: ThinkrouteError) -> bytes:
    """An error body in OpenAI's shape."""
    _, kind = http_status(error)
    body = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    return orjson.dumps({"error": body})


def render_failure(error: ThinkrouteError) -> bytes:
    """The last events of a stream that failed: an error object, then `[DONE]`; never a silent end."""
    return sse.render_json(render_error(error)) + sse.DONE


def render_usage(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage` object."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer, whatever program made it."""

    reasoning: str
    content: str
    finish: str
    usage: Usage
    upstream: Upstream = field(default_factory=dict[str, Any])
    logprobs: Sequence[TokenLogprob] | None = None


class Renderer:
    """Renders one answer for its caller. Its fields are fixed once; each chunk costs one small `dumps`."""

    def __init__(self, answer_id: str, model: str, created: int) -> None:
        self._head: dict[str, Any] = {"id": answer_id, "created": created, "model": model}

    def answer(self, answer: Answer, route: Mapping[str, Any]) -> bytes:
        """The body of an answer that is not streamed; `route` is thinkroute's own block."""
        extra: Mapping[str, Any] = answer.upstream.get("message", {})
        # OpenAI's shape: content is null, not "", when the message holds tool calls instead.
        message: dict[str, Any] = {"role": "assistant", "content": answer.content or (None if extra else "")}
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        message.update(extra)
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": answer.finish}
        choice.update(answer.upstream.get("choice", {}))
        choice["logprobs"] = _all_logprobs(answer)
        body = {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": render_usage(answer.usage),
            **answer.upstream.get("body", {}),
            "thinkroute": route,
        }
        return orjson.dumps(body)

    def opening(self) -> bytes:
        """The first event of a stream: the role."""
        return self._event({"role": "assistant", "content": ""})

    def delta(self, delta: Delta) -> bytes | None:
        """One event for one piece of text; None when there is nothing to say."""
        fields: dict[str, Any] = {}
        if delta.text:
            fields["content" if delta.channel == "answer" else "reasoning_content"] = delta.text
        chunk = delta.chunk
        if chunk is None:
            return self._event(fields) if fields else None
        fields.update(chunk.upstream.get("message", {}))
        choice: dict[str, Any] = dict(chunk.upstream.get("choice", {}))
        if chunk.logprobs:
            choice["logprobs"] = render_logprobs(chunk.logprobs)
        body: Mapping[str, Any] = chunk.upstream.get("body", {})
        if not fields and not choice:
            return None
        return self._event(fields, choice, body)

    def closing(self, finish: str, usage: Usage | None, route: Mapping[str, Any]) -> bytes:
        """The last events of a stream that went well: finish reason, usage when asked for, `[DONE]`."""
        last = self._event({}, {"finish_reason": finish}, {"thinkroute": route})
        if usage is not None:
            body: dict[str, Any] = {
                **self._head,
                "object": _CHUNK,
                "choices": [],
                "usage": render_usage(usage),
            }
            last += sse.render_json(orjson.dumps(body))
        return last + sse.DONE

    def _event(
        self,
        delta: Mapping[str, Any],
        choice: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> bytes:
        first = {"index": 0, "delta": delta, "finish_reason": None, **(choice or {})}
        event = {**self._head, "object": _CHUNK, "choices": [first], **(body or {})}
        return sse.render_json(orjson.dumps(event))


_CHUNK = "chat.completion.chunk"


def render_logprobs(logprobs: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
    """OpenAI's `logprobs` object of the generated tokens; None stays null."""
    if logprobs is None:
        return None
    return {"content": [_logprob(token) for token in logprobs]}


def _all_logprobs(answer: Answer) -> Any:
    """The upstream's own object when it covers the whole answer; ours when legs before the last have some too."""
    own: Any = answer.upstream.get("choice", {}).get("logprobs")
    if isinstance(own, dict):
        covered: Any = cast("dict[str, Any]", own).get("content")
        listed = len(cast("list[Any]", covered)) if isinstance(covered, list) else 0
        return render_logprobs(answer.logprobs) if len(answer.logprobs or ()) > listed else own  # pyright: ignore[reportUnknownVariableType]
    return render_logprobs(answer.logprobs)


def _logprob(token: TokenLogprob) -> dict[str, Any]:
    top = [{"token": text, "logprob": value, "bytes": list(text.encode())} for text, value in token.top]
    return {
        "token": token.token,
        "logprob": token.logprob,
        "bytes": list(token.token.encode()),
        "top_logprobs": top,
    }
