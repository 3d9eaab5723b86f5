"""What a caller says of thinking, in whichever dialect's field, as one effort hint.

OpenAI (`reasoning_effort`), OpenRouter and Responses (`reasoning`), Anthropic and DeepSeek (`thinking`), Ollama (`think`),
vLLM (`thinking_token_budget`), DashScope (`enable_thinking`) and template flags (`chat_template_kwargs`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thinkroute.errors import InvalidRequest
from thinkroute.types import Effort
from thinkroute.wire.openai_chat.fields import read_boolean, read_integer, read_object

BUDGET_FIELDS = (
    "thinking_token_budget",
    "thinking_budget",
    "thinking_budget_tokens",
    "reasoning_budget_tokens",
)
"""Top-level fields in which engines take a thinking budget: vLLM, DashScope, llama.cpp in two versions."""
_LEVELS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def _on_off(fields: Mapping[str, Any], name: str, prefix: str = "") -> Effort:
    return Effort("on" if read_boolean(fields, name, prefix) else "off")


def read_effort(fields: Mapping[str, Any], options: dict[str, Any]) -> Effort | None:
    """One effort out of the dialects' reasoning fields; contradictory wishes are an error, not a guess.

    What else stands beside them (`reasoning.exclude`, `reasoning.summary`) is left in the options.
    """
    wishes: dict[str, Effort] = {}
    if (level := fields.get("reasoning_effort")) is not None:
        wishes["reasoning_effort"] = _level(level, "reasoning_effort")
    for name in BUDGET_FIELDS:
        if (budget := read_integer(fields, name, minimum=0)) is not None:
            wishes[name] = _budget(budget)
    if fields.get("enable_thinking") is not None:
        wishes["enable_thinking"] = _on_off(fields, "enable_thinking")
    if (think := fields.get("think")) is not None:
        wishes["think"] = _level(think, "think") if isinstance(think, str) else _on_off(fields, "think")
    wishes |= _reasoning_wishes(fields, options) | _thinking_wishes(fields) | _template_wishes(options)
    return _one_wish(wishes)


def _reasoning_wishes(fields: Mapping[str, Any], options: dict[str, Any]) -> dict[str, Effort]:
    """OpenRouter's and Responses' object; what it says beside the effort stays in the options."""
    reasoning = read_object(fields, "reasoning")
    wishes: dict[str, Effort] = {}
    if (level := reasoning.get("effort")) is not None:
        wishes["reasoning.effort"] = _level(level, "reasoning.effort")
    if (budget := read_integer(reasoning, "max_tokens", minimum=0)) is not None:
        wishes["reasoning.max_tokens"] = _budget(budget)
    if reasoning.get("enabled") is not None:
        wishes["reasoning.enabled"] = _on_off(reasoning, "enabled", "reasoning.")
    rest = {key: value for key, value in reasoning.items() if key not in ("effort", "max_tokens", "enabled")}
    if rest:
        options["reasoning"] = rest
    return wishes


def _thinking_wishes(fields: Mapping[str, Any]) -> dict[str, Effort]:
    """Anthropic's and DeepSeek's object. `adaptive` leaves the choice to us, which is no wish."""
    thinking = read_object(fields, "thinking")
    kind = thinking.get("type")
    if kind not in (None, "enabled", "disabled", "adaptive"):
        raise InvalidRequest("`thinking.type` must be enabled, disabled or adaptive", param="thinking.type")
    wishes: dict[str, Effort] = {}
    if (budget := read_integer(thinking, "budget_tokens", minimum=1)) is not None:
        wishes["thinking.budget_tokens"] = Effort("on", budget)
    if kind in ("enabled", "disabled"):
        wishes["thinking.type"] = Effort("on" if kind == "enabled" else "off")
    return wishes


def _budget(tokens: int) -> Effort:
    return Effort("on", tokens) if tokens else Effort("off")


def _template_wishes(options: dict[str, Any]) -> dict[str, Effort]:
    """Takes the thinking flags out of `chat_template_kwargs` and leaves the caller's other flags there."""
    kwargs = read_object(options, "chat_template_kwargs")
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
