"""OpenAI Chat Completions, reading the caller's request.

Reads only what routing needs and validates only that; every other field is kept as it came and travels on. The
reasoning controls are the exception: thinkroute owns them, so they become an effort hint and leave the options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import orjson

from thinkroute.errors import InvalidRequest, UnsupportedRequest
from thinkroute.types import Effort, Query, estimate_tokens
from thinkroute.wire.json_body import parse_object
from thinkroute.wire.openai_chat.effort_hint import BUDGET_FIELDS, read_effort
from thinkroute.wire.openai_chat.fields import read_boolean, read_integer, read_object
from thinkroute.wire.soft_switch import read_soft_switch

_OWNED = frozenset({
    "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "reasoning_effort",
    "reasoning", "thinking", "think", "enable_thinking", *BUDGET_FIELDS,
})  # fmt: skip
_PART_NEEDS: Mapping[str, str] = {
    "image_url": "images", "input_image": "images", "image": "images",
    "input_audio": "audio", "audio": "audio",
    "file": "files", "input_file": "files", "document": "files",
    "video_url": "video", "input_video": "video", "video": "video",
}  # fmt: skip
"""Content parts that not every model can read, and the capability each needs."""
_PROMPT_FIELDS = ("tools", "functions", "response_format")
"""Options that become part of the prompt."""
_TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal"})
_IMAGE_TOKENS_MOST = 32_768
"""More than an image is billed as."""
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
    soft_effort: Effort | None = None
    """What the last soft switch in the messages asks of models that know them; the messages keep it."""
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
    fields = parse_object(body)
    messages = _messages(fields.get("messages"))
    if read_integer(fields, "n", minimum=1) not in (None, 1):
        raise UnsupportedRequest("`n` greater than 1 is not supported: send the request n times", param="n")
    options = {key: value for key, value in fields.items() if key not in _OWNED}
    stream_options = dict(read_object(fields, "stream_options"))
    include_usage = read_boolean(stream_options, "include_usage", "stream_options.")
    stream_options.pop("include_usage", None)
    if stream_options:
        options["stream_options"] = stream_options
    max_tokens = _max_tokens(fields, options)
    effort = read_effort(fields, options)
    return ChatRequest(
        model=_model(fields),
        messages=messages,
        stream=read_boolean(fields, "stream"),
        include_usage=include_usage,
        max_tokens=max_tokens,
        effort=effort,
        soft_effort=read_soft_switch(
            content_text(message.get("content")) for message in _instructions(messages)
        ),
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


def _max_tokens(fields: Mapping[str, Any], options: dict[str, Any]) -> int | None:
    """The caller's cap. The newer name wins and is kept as a marker for the upstream's renderer."""
    old = read_integer(fields, "max_tokens", minimum=1)
    new = read_integer(fields, "max_completion_tokens", minimum=1)
    if new is not None:
        options["max_completion_tokens"] = new
        return new
    return old


def _instructions(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [message for message in messages if message["role"] in ("user", "system", "developer")]


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
        prompt_tokens_most=body_bytes + _IMAGE_TOKENS_MOST * sum(len(_part_needs(m)) for m in messages),
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
    return [_PART_NEEDS.get(part["type"], "files") for part in parts if part["type"] not in _TEXT_PARTS]


def _schema_tokens(options: Mapping[str, Any]) -> int:
    schemas = [options[name] for name in _PROMPT_FIELDS if options.get(name)]
    return sum(estimate_tokens(len(orjson.dumps(schema))) for schema in schemas)
