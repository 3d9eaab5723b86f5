"""A `Call` as the request body of an upstream that speaks OpenAI's dialect.

Owns: `model`, `messages`, `stream`, `stream_options.include_usage`, the token cap, the reasoning controls and the
continuation of an assistant message. Every other field of the caller's request is forwarded as it came. Reading the
reply is `upstream_reply`'s.

Invariants: the body is a fresh object; `default` effort sends no reasoning control; what cannot be honoured raises.
`Call.until_thinking_end` changes nothing here: stopping at the close tag would leave no telling a finished thought
from a finished message, so the upstream may run on into the answer, as the contract allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thinkroute.catalog import Family, Model
from thinkroute.errors import InvalidRequest, UnsupportedRequest
from thinkroute.programs.protocol import Call
from thinkroute.types import Effort
from thinkroute.wire.raw_prompt import raw_prompt

_CHAT_ONLY = ("chat_template_kwargs", "max_completion_tokens", "logprobs", "top_logprobs", "reasoning_effort")
PATHS = ("/chat/completions", "/completions")
"""Where requests go, below the API root."""


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """Where to post and what."""

    path: str
    """One of `PATHS`."""
    body: Mapping[str, Any]


def render_request(call: Call, model: Model) -> UpstreamRequest:
    """The upstream request of a call.

    Raises:
        UnsupportedRequest: the call continues a message and the model cannot, or asks for several choices.
        InvalidRequest: a field that must be merged with ours has the wrong type.
    """
    if call.options.get("n") not in (None, 1):
        raise UnsupportedRequest(
            f"n={call.options['n']!r}: one choice per request is routed; send n requests", param="n"
        )
    if call.prefix and model.continuation == "none":
        raise UnsupportedRequest(
            f"model {model.name!r} cannot continue its own message; set `continuation: prefill` or"
            " `continuation: completions` for it, as its server allows"
        )
    # A message that is to be stopped and continued begins raw as well, so that no server takes its text apart.
    raw = model.continuation == "completions" and bool(call.prefix or call.until_text)
    body = dict(call.options)
    body["model"] = model.upstream_name
    _set_stream(body, call.stream)
    _set_token_cap(body, call.max_tokens, model.family.cap_field)
    _set_reasoning(body, call.effort, model)
    _set_stop(body, call.until_text)
    if raw:
        return UpstreamRequest("/completions", _as_completion(body, call, model))
    body["messages"] = _messages(call)
    if call.prefix:
        body["continue_final_message"] = True
        body["add_generation_prompt"] = False
    return UpstreamRequest("/chat/completions", body)


def _set_stream(body: dict[str, Any], stream: bool) -> None:
    body["stream"] = stream
    if stream:
        body["stream_options"] = {**_mapping(body, "stream_options"), "include_usage": True}
    else:
        body.pop("stream_options", None)  # OpenAI refuses the field on requests that do not stream


def _set_token_cap(body: dict[str, Any], max_tokens: int | None, field: str) -> None:
    """Write the cap under the name the family wants, else the one the caller used."""
    if max_tokens is None:
        return
    newer = field == "max_completion_tokens" or "max_completion_tokens" in body
    body.pop("max_tokens", None)
    body.pop("max_completion_tokens", None)
    body["max_completion_tokens" if newer else "max_tokens"] = max_tokens


def _set_stop(body: dict[str, Any], until_text: str | None) -> None:
    """Add a stop string of ours to the caller's; that servers take it out of the text is the reader's business."""
    if until_text is None:
        return
    own = body.get("stop")
    listed: list[Any] = [own] if isinstance(own, str) else list(own or ())
    body["stop"] = [*listed, until_text]


def _set_reasoning(body: dict[str, Any], effort: Effort, model: Model) -> None:
    if effort.level == "default":
        return
    body.pop("reasoning_effort", None)  # the effort is decided: the caller's own word must not contradict it
    if model.family.control == "template_flag":
        flag = {model.family.flag: effort.level != "off"}
        body["chat_template_kwargs"] = {**_mapping(body, "chat_template_kwargs"), **flag}
    elif model.family.control == "effort_field":
        body["reasoning_effort"] = effort_word(effort, model.family)
    if model.thinking_budget_field and effort.budget_tokens is not None:
        body[model.thinking_budget_field] = effort.budget_tokens


def effort_word(effort: Effort, family: Family) -> str:
    """The word `reasoning_effort` carries for this effort.

    `off` becomes `none` where the family can be switched off and its lowest level where it cannot; `on` becomes the
    middle of its thinking levels. Any other level is sent as it is, so that a wrong one is refused, not changed.
    """
    thinking = [level for level in family.levels if level not in ("off", "on", "default")]
    if effort.level == "off":
        return thinking[0] if family.off_means == "lowest" and thinking else "none"
    if effort.level == "on":
        return thinking[len(thinking) // 2] if thinking else "medium"
    return effort.level


def _messages(call: Call) -> list[Mapping[str, Any]]:
    messages = list(call.messages)
    if call.prefix:
        messages.append({"role": "assistant", "content": call.prefix_text})
    return messages


def _as_completion(body: dict[str, Any], call: Call, model: Model) -> dict[str, Any]:
    """The same request for `/v1/completions`: the prompt in the family's own template, chat-only fields translated."""
    for field in ("tools", "functions", "response_format"):
        if body.get(field):
            raise UnsupportedRequest(
                f"model {model.name!r} continues messages with raw completions, which cannot carry `{field}`;"
                " set `continuation: prefill` for this model",
                param=field,
            )
    cap = body.get("max_completion_tokens", body.get("max_tokens"))
    logprobs = (body.get("top_logprobs") or 1) if body.get("logprobs") else None
    for field in _CHAT_ONLY:
        body.pop(field, None)
    if cap is not None:
        body["max_tokens"] = cap
    if logprobs is not None:
        body["logprobs"] = logprobs
    body["prompt"] = raw_prompt(call.messages, call.prefix_text, model, call.effort)
    return body


def _mapping(body: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    value = body.get(field)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"`{field}` must be an object, not {type(value).__name__}", param=field)
    return value  # pyright: ignore[reportUnknownVariableType]
