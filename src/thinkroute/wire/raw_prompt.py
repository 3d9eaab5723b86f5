"""Conversations as raw text for `/v1/completions`, for families whose template is known here.

Owns: two templates, and the choice among them and the fleet's own (`fleet_prompt`). Does not own tool calls and
images: what a template here cannot write is refused, never dropped. Begin-of-sequence tokens are left out, because
completion servers add them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from thinkroute.catalog import Family, Model
from thinkroute.errors import UnsupportedRequest
from thinkroute.types import Effort
from thinkroute.wire.fleet_prompt import last_turn, render

_FLEET_FAMILIES = frozenset({"thinkroute-fleet", "thinkroute-fleet-thinking"})
_CHATML_FAMILIES = frozenset({"qwen3", "qwen3-instruct-2507", "qwen3-thinking-2507", "qwen3.8"})
_DEEPSEEK_USER = "<\uff5cUser\uff5c>"
_DEEPSEEK_ASSISTANT = "<\uff5cAssistant\uff5c>"
_DEEPSEEK_END = "<\uff5cend\u2581of\u2581sentence\uff5c>"


def has_raw_template(family: Family) -> bool:
    """Whether conversations of this family can be written as raw text here."""
    return family.name in {*_FLEET_FAMILIES, *_CHATML_FAMILIES, "deepseek-r1"}


def raw_prompt(
    messages: Sequence[Mapping[str, Any]], prefix: str, model: Model, effort: Effort | None = None
) -> str:
    """The conversation in the family's template, ending inside the assistant message that begins with `prefix`.

    With effort `off` the message begins with an empty thinking block, as the family's template writes it.

    Raises:
        UnsupportedRequest: no template for the family, or a message is more than text.
    """
    turns = [_turn(message, model) for message in messages]
    prefix = _opening(prefix, model.family, effort) + prefix
    if model.family.name in _FLEET_FAMILIES:
        return render(last_turn(messages)) + prefix
    if model.family.name in _CHATML_FAMILIES:
        history = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
        return f"{history}<|im_start|>assistant\n{prefix}"
    if model.family.name == "deepseek-r1":
        return "".join(_deepseek_turn(role, text) for role, text in turns) + _DEEPSEEK_ASSISTANT + prefix
    raise UnsupportedRequest(
        f"model {model.name!r} cannot continue a message with raw completions: family {model.family.name!r} has no"
        " raw template here; set `continuation: prefill` for this model"
    )


def _opening(prefix: str, family: Family, effort: Effort | None) -> str:
    """What the family's template itself writes into the message: an empty block for `off`, an open one for some."""
    if not prefix and family.levels == ("on",) and family.name not in _FLEET_FAMILIES:
        return family.open_text
    off = effort is not None and effort.level == "off" and family.control == "template_flag"
    return (
        family.open_text + family.close_text
        if off and not prefix.startswith(family.open_text.strip())
        else ""
    )


def _turn(message: Mapping[str, Any], model: Model) -> tuple[str, str]:
    role = "system" if message.get("role") == "developer" else message.get("role")
    if role not in ("system", "user", "assistant") or message.get("tool_calls"):
        raise UnsupportedRequest(
            f"model {model.name!r} continues messages with raw completions, which cannot carry a {role!r} message"
            " with tools; set `continuation: prefill` for this model"
        )
    text = text_of(message.get("content"))
    if text is None:
        raise UnsupportedRequest(
            f"model {model.name!r} continues messages with raw completions, which carry text only;"
            " set `continuation: prefill` for this model"
        )
    if role == "assistant":
        text = text.rpartition("</think>")[2].lstrip(
            "\n"
        )  # as the templates do: old thoughts are not shown again
    return role, text


def text_of(content: object) -> str | None:
    """The text of a message's content, parts joined by line feeds; None when a part is not text."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        return None
    texts: list[str] = []
    for part in cast("list[object]", content):
        text = cast("dict[str, object]", part).get("text") if isinstance(part, dict) else None
        if not isinstance(text, str):
            return None
        texts.append(text)
    return "\n".join(texts)


def _deepseek_turn(role: str, text: str) -> str:
    if role == "user":
        return _DEEPSEEK_USER + text
    return text if role == "system" else f"{_DEEPSEEK_ASSISTANT}{text}{_DEEPSEEK_END}"
