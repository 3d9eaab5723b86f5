"""OpenAI Chat Completions, the caller's side: read requests, render answers, streams and errors.

Reads only what routing needs and validates only that; every other field is kept as it came and travels on. The
reasoning controls are the exception: thinkroute owns them, so they become an effort hint and leave the options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import orjson

from thinkroute.errors import InvalidRequest, ThinkrouteError, UnsupportedRequest, http_status
from thinkroute.programs.driver import Delta
from thinkroute.programs.protocol import TokenLogprob, Upstream
from thinkroute.types import Effort, Query, Usage, estimate_tokens

_OWNED = frozenset({
    "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "reasoning_effort",
    "reasoning", "thinking", "think", "thinking_token_budget", "enable_thinking",
})  # fmt: skip
_PART_NEEDS: Mapping[str, str] = {
    "image_url": "images", "input_image": "images", "image": "images",
    "input_audio": "audio", "audio": "audio",
    "file": "files", "input_file": "files", "document": "files",
    "video_url": "video", "input_video": "video", "video": "video",
}  # fmt: skip
"""Content parts that not every model can read, and the capability each needs."""
_LEVELS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_PROMPT_FIELDS = ("tools", "functions", "response_format")
"""Options that become part of the prompt."""
_PART_TOKENS_MOST = 4096
"""More than an image, or what else stands behind a link, is billed as."""
_MODEL_CHARS = 256


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A caller's request: what routing reads, and everything else untouched."""

    model: str
    """As asked: `auto`, a virtual model, a model, or `model@effort`."""
    messages: tuple[Mapping[str, Any], ...]
    stream: bool
    include_usage: bool
    """Whether a stream must end with a usage chunk."""
    max_tokens: int | None
    effort: Effort | None
    """The caller's own wish, from whichever reasoning field was used; None when there was none."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """All other fields, unknown ones included, for the engine."""
    query: Query = field(default_factory=lambda: Query(""))


def parse_request(body: bytes) -> ChatRequest:
    """Read a request body.

    Raises:
        InvalidRequest: not JSON, or a field that routing reads is missing, of the wrong type or contradictory; the
            error's `param` names it.
        UnsupportedRequest: well-formed, but asks for more than one choice.
    """
    try:
        raw: object = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise InvalidRequest("the body must be a JSON object")
    fields = cast("dict[str, Any]", raw)
    messages = _messages(fields.get("messages"))
    if _integer(fields, "n", minimum=1) not in (None, 1):
        raise UnsupportedRequest("`n` greater than 1 is not supported: send the request n times", param="n")
    options = {key: value for key, value in fields.items() if key not in _OWNED}
    stream_options = dict(_object(fields, "stream_options"))
    include_usage = _boolean(stream_options, "include_usage", "stream_options.")
    stream_options.pop("include_usage", None)
    if stream_options:
        options["stream_options"] = stream_options
    max_tokens = _max_tokens(fields, options)
    effort = _effort(fields, options)
    return ChatRequest(
        model=_model(fields),
        messages=messages,
        stream=_boolean(fields, "stream"),
        include_usage=include_usage,
        max_tokens=max_tokens,
        effort=effort,
        options=options,
        query=_query(messages, options, max_tokens, body_bytes=len(body)),
    )


def _model(fields: Mapping[str, Any]) -> str:
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest('`model` must be a non-empty string such as "auto"', param="model")
    if len(model) > _MODEL_CHARS:
        raise InvalidRequest(f"`model` must be at most {_MODEL_CHARS} characters", param="model")
    return model


def _messages(value: Any) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, list) or not value:
        raise InvalidRequest("`messages` must be a non-empty array of messages", param="messages")
    messages = cast("list[Any]", value)
    for position, item in enumerate(messages):
        where = f"messages[{position}]"
        if not isinstance(item, dict):
            raise InvalidRequest(f"`{where}` must be an object with a role and a content", param=where)
        message = cast("dict[str, Any]", item)
        if not isinstance(message.get("role"), str):
            raise InvalidRequest(f"`{where}.role` must be a string", param=f"{where}.role")
        _check_content(message.get("content"), f"{where}.content")
    return tuple(messages)


def _check_content(content: Any, where: str) -> None:
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list):
        raise InvalidRequest(f"`{where}` must be a string or an array of parts", param=where)
    for index, item in enumerate(cast("list[Any]", content)):
        if not isinstance(item, dict) or not isinstance(cast("dict[str, Any]", item).get("type"), str):
            raise InvalidRequest(
                f"`{where}[{index}]` must be an object with a type", param=f"{where}[{index}]"
            )


def _boolean(fields: Mapping[str, Any], name: str, prefix: str = "") -> bool:
    value = fields.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise InvalidRequest(f"`{prefix}{name}` must be true or false", param=prefix + name)
    return value


def _on_off(fields: Mapping[str, Any], name: str, prefix: str = "") -> Effort:
    return Effort("on" if _boolean(fields, name, prefix) else "off")


def _integer(fields: Mapping[str, Any], name: str, minimum: int) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise InvalidRequest(
            f"`{name}` must be an integer of at least {minimum}, not {value!r:.50}", param=name
        )
    return value


def _object(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest(f"`{name}` must be an object", param=name)
    return cast("dict[str, Any]", value)


def _max_tokens(fields: Mapping[str, Any], options: dict[str, Any]) -> int | None:
    """The caller's cap. The newer name wins and is kept as a marker for the upstream's renderer."""
    old = _integer(fields, "max_tokens", minimum=1)
    new = _integer(fields, "max_completion_tokens", minimum=1)
    if new is not None:
        options["max_completion_tokens"] = new
        return new
    return old


def _effort(fields: Mapping[str, Any], options: dict[str, Any]) -> Effort | None:
    """One effort out of the dialects' reasoning fields; contradictory wishes are an error, not a guess.

    What else stands beside them (`reasoning.exclude`, `reasoning.summary`) is left in the options.
    """
    wishes: dict[str, Effort] = {}
    if (level := fields.get("reasoning_effort")) is not None:
        wishes["reasoning_effort"] = _level(level, "reasoning_effort")
    if (budget := _integer(fields, "thinking_token_budget", minimum=0)) is not None:
        wishes["thinking_token_budget"] = _budget(budget)
    if fields.get("enable_thinking") is not None:
        wishes["enable_thinking"] = _on_off(fields, "enable_thinking")
    if (think := fields.get("think")) is not None:
        wishes["think"] = _level(think, "think") if isinstance(think, str) else _on_off(fields, "think")
    wishes |= _reasoning_wishes(fields, options) | _thinking_wishes(fields) | _template_wishes(options)
    return _one_wish(wishes)


def _reasoning_wishes(fields: Mapping[str, Any], options: dict[str, Any]) -> dict[str, Effort]:
    """OpenRouter's and Responses' object; what it says beside the effort stays in the options."""
    reasoning = _object(fields, "reasoning")
    wishes: dict[str, Effort] = {}
    if (level := reasoning.get("effort")) is not None:
        wishes["reasoning.effort"] = _level(level, "reasoning.effort")
    if (budget := _integer(reasoning, "max_tokens", minimum=0)) is not None:
        wishes["reasoning.max_tokens"] = _budget(budget)
    if reasoning.get("enabled") is not None:
        wishes["reasoning.enabled"] = _on_off(reasoning, "enabled", "reasoning.")
    rest = {key: value for key, value in reasoning.items() if key not in ("effort", "max_tokens", "enabled")}
    if rest:
        options["reasoning"] = rest
    return wishes


def _thinking_wishes(fields: Mapping[str, Any]) -> dict[str, Effort]:
    """Anthropic's and DeepSeek's object. `adaptive` leaves the choice to us, which is no wish."""
    thinking = _object(fields, "thinking")
    kind = thinking.get("type")
    if kind not in (None, "enabled", "disabled", "adaptive"):
        raise InvalidRequest("`thinking.type` must be enabled, disabled or adaptive", param="thinking.type")
    budget = _integer(thinking, "budget_tokens", minimum=1)
    if kind == "enabled":
        return {"thinking": Effort("on", budget)}
    return {"thinking": Effort("off")} if kind == "disabled" else {}


def _budget(tokens: int) -> Effort:
    return Effort("on", tokens) if tokens else Effort("off")


def _template_wishes(options: dict[str, Any]) -> dict[str, Effort]:
    """Takes the thinking flags out of `chat_template_kwargs` and leaves the caller's other flags there."""
    kwargs = _object(options, "chat_template_kwargs")
    wishes: dict[str, Effort] = {}
    for flag in ("enable_thinking", "thinking"):
        if kwargs.get(flag) is not None:
            wishes[f"chat_template_kwargs.{flag}"] = _on_off(kwargs, flag, "chat_template_kwargs.")
    rest = {key: value for key, value in kwargs.items() if key not in ("enable_thinking", "thinking")}
    options.pop("chat_template_kwargs", None)
    if rest:
        options["chat_template_kwargs"] = rest
    return wishes


def _one_wish(wishes: Mapping[str, Effort]) -> Effort | None:
    budgets = {effort.budget_tokens for effort in wishes.values() if effort.budget_tokens is not None}
    levels = {effort.level for effort in wishes.values() if effort.level != "on"}
    if len({effort.thinks for effort in wishes.values()}) > 1 or len(budgets) > 1 or len(levels) > 1:
        said = ", ".join(f"{name} asks for {effort}" for name, effort in wishes.items())
        raise InvalidRequest(f"the reasoning fields contradict each other: {said}", param=next(iter(wishes)))
    # The most specific wish wins: a budget, then a level, then plain on.
    by_detail = sorted(
        wishes.values(), key=lambda effort: (effort.budget_tokens is None, effort.level == "on")
    )
    return by_detail[0] if by_detail else None


def _level(value: Any, name: str) -> Effort:
    if value not in _LEVELS:
        raise InvalidRequest(
            f"`{name}` must be one of {', '.join(_LEVELS)}; not {value!r:.50}",
            param=name,
        )
    return Effort.parse(value)


def content_text(content: Any) -> str:
    """Plain text of a message's content; non-text parts are left out."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = cast("list[Mapping[str, Any]]", content)
    return "\n".join(part["text"] for part in parts if isinstance(part.get("text"), str))


def _query(
    messages: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    max_tokens: int | None,
    *,
    body_bytes: int,
) -> Query:
    last = next((i for i in range(len(messages) - 1, -1, -1) if messages[i]["role"] == "user"), None)
    texts = [content_text(message.get("content")) for message in messages]
    context = "\n".join(text for i, text in enumerate(texts) if i != last and text)
    return Query(
        text=texts[last] if last is not None else "",
        context=context,
        max_tokens=max_tokens,
        prompt_tokens=sum(estimate_tokens(len(text.encode("utf-8", "replace"))) + 4 for text in texts)
        + _schema_tokens(options),
        prompt_tokens_most=body_bytes + _PART_TOKENS_MOST * sum(len(_part_needs(m)) for m in messages),
        needs=_needs(messages, options),
    )


def _needs(messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> frozenset[str]:
    needs: set[str] = set()
    if options.get("tools") or options.get("functions"):
        needs.add("tools")
    response_format = options.get("response_format")
    if isinstance(response_format, dict) and cast("dict[str, Any]", response_format).get("type") != "text":
        needs.add("json")
    if options.get("logprobs"):
        needs.add("logprobs")
    needs.update(need for message in messages for need in _part_needs(message))
    return frozenset(needs)


def _part_needs(message: Mapping[str, Any]) -> list[str]:
    """The capability behind each part of a message that is not text."""
    content = message.get("content")
    if not isinstance(content, list):
        return []
    parts = cast("list[Mapping[str, Any]]", content)
    return [_PART_NEEDS[part["type"]] for part in parts if part["type"] in _PART_NEEDS]


def _schema_tokens(options: Mapping[str, Any]) -> int:
    schemas = [options[name] for name in _PROMPT_FIELDS if options.get(name)]
    return sum(estimate_tokens(len(orjson.dumps(schema))) for schema in schemas)


def render_error(error: ThinkrouteError) -> bytes:
    """An error body in OpenAI's shape."""
    _, kind = http_status(error)
    body = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    return orjson.dumps({"error": body})


def render_failure(error: ThinkrouteError) -> bytes:
    """The last events of a stream that failed: an error object, then `[DONE]`; never a silent end."""
    return b"data: " + render_error(error) + b"\n\n" + _DONE


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
        choice["logprobs"] = render_logprobs(answer.logprobs)
        choice.update(answer.upstream.get("choice", {}))
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
            last += b"data: " + orjson.dumps(body) + b"\n\n"
        return last + _DONE

    def _event(
        self,
        delta: Mapping[str, Any],
        choice: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> bytes:
        first = {"index": 0, "delta": delta, "finish_reason": None, **(choice or {})}
        return (
            b"data: "
            + orjson.dumps({**self._head, "object": _CHUNK, "choices": [first], **(body or {})})
            + b"\n\n"
        )


_CHUNK = "chat.completion.chunk"
_DONE = b"data: [DONE]\n\n"


def render_logprobs(logprobs: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
    """OpenAI's `logprobs` object of the generated tokens; None stays null."""
    if logprobs is None:
        return None
    return {"content": [_logprob(token) for token in logprobs]}


def _logprob(token: TokenLogprob) -> dict[str, Any]:
    top = [{"token": text, "logprob": value, "bytes": list(text.encode())} for text, value in token.top]
    return {
        "token": token.token,
        "logprob": token.logprob,
        "bytes": list(token.token.encode()),
        "top_logprobs": top,
    }
