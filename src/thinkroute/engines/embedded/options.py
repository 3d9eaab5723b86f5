"""Reading a call's options: what the embedded engine honours, and a clear refusal of what it cannot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from thinkroute.engines.embedded.sampling import Sampling
from thinkroute.errors import InvalidRequest, UnsupportedRequest
from thinkroute.programs.protocol import Call

_MOST_STOPS = 16
_MOST_TOP_LOGPROBS = 20

_BOOKKEEPING = frozenset(
    {
        "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "stream_options",
        "max_tokens", "max_completion_tokens",
    }
)  # fmt: skip
"""Fields that ask for no other text, or reach the engine as fields of the call."""

_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "min_p": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
"""Parameters the engine cannot act on, with the values that ask for nothing."""

_HONOURED = frozenset(
    {"temperature", "top_p", "top_k", "seed", "stop", "logprobs", "top_logprobs", "chat_template_kwargs"}
)

KNOWN_OPTIONS = _HONOURED | _BOOKKEEPING | frozenset(_NEUTRAL)
"""Every option the engine judges. It has no notion of any other: the gateway tells the caller which were ignored."""


def _reject_unsupported(options: Mapping[str, Any]) -> None:
    for name, neutral in _NEUTRAL.items():
        value: object = options.get(name)
        if value is not None and value not in neutral:
            raise UnsupportedRequest(f"the embedded engine cannot honour {name}={value!r}", param=name)


def _number(
    options: Mapping[str, Any], name: str, default: float, accepts: Callable[[float], bool], range_text: str
) -> float:
    value: object = options.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not accepts(value):
        raise InvalidRequest(f"{name} must be {range_text}, got {value!r}", param=name)
    return value


def _whole(options: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    value: object = options.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidRequest(
            f"{name} must be a whole number from {least} to {most}, got {value!r}", param=name
        )
    return value


def read_sampling(options: Mapping[str, Any]) -> Sampling:
    """Sampling settings; without a temperature the engine is greedy.

    Raises:
        UnsupportedRequest: a parameter asks for something the engine cannot do; `param` names it.
        InvalidRequest: a value is out of its range.
    """
    _reject_unsupported(options)
    logprobs: object = options.get("logprobs")
    if logprobs is not None and not isinstance(logprobs, bool):
        raise InvalidRequest(f"logprobs must be true or false, got {logprobs!r}", param="logprobs")
    top_logprobs = _whole(options, "top_logprobs", 0, 0, _MOST_TOP_LOGPROBS)
    if top_logprobs and not logprobs:
        raise InvalidRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
    seed: object = options.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise InvalidRequest(f"seed must be a whole number, got {seed!r}", param="seed")
    return Sampling(
        temperature=_number(options, "temperature", 0.0, lambda value: 0 <= value <= 2, "from 0 to 2"),
        top_p=_number(options, "top_p", 1.0, lambda value: 0 < value <= 1, "above 0 and at most 1"),
        top_k=max(0, _whole(options, "top_k", 0, -1, 1_000_000)),
        seed=None if seed is None else seed & (2**64 - 1),
        logprobs=bool(logprobs),
        top_logprobs=top_logprobs,
    )


def read_stop(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Stop strings: absent, one, or a list of up to sixteen."""
    value: object = options.get("stop")
    if value is None:
        return ()
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        stops = cast("list[object]", value)
        if len(stops) <= _MOST_STOPS and all(isinstance(stop, str) and stop for stop in stops):
            return tuple(cast("list[str]", stops))
    raise InvalidRequest(f"stop must be a string or up to {_MOST_STOPS} non-empty strings", param="stop")


def read_thinking(call: Call) -> bool:
    """Whether the template leaves room for thinking; False prefills the empty block.

    Raises:
        InvalidRequest: the template's arguments are not an object, or its flag is neither true nor false.
        UnsupportedRequest: the effort is a level or a budget that the template cannot express.
    """
    kwargs = _template_arguments(call.options)
    unknown = sorted(set(kwargs) - {"enable_thinking"})
    if unknown:
        raise UnsupportedRequest(
            f"the fleet's template knows only enable_thinking, not {', '.join(unknown)}",
            param="chat_template_kwargs",
        )
    if call.effort.budget_tokens is not None or call.effort.level not in ("off", "on", "default"):
        raise UnsupportedRequest(
            f"the embedded engine thinks on or off, not at {call.effort}: "
            "a budget is enforced by the budgeted program",
            param="reasoning_effort",
        )
    if call.effort.level == "default":
        return kwargs.get("enable_thinking") is not False
    return call.effort.level == "on"


def _template_arguments(options: Mapping[str, Any]) -> Mapping[str, object]:
    given: object = options.get("chat_template_kwargs")
    kwargs: object = {} if given is None else given
    if not isinstance(kwargs, Mapping):
        raise InvalidRequest(
            f"chat_template_kwargs must be an object, got {given!r:.100}", param="chat_template_kwargs"
        )
    arguments = cast("Mapping[str, object]", kwargs)
    flag = arguments.get("enable_thinking")
    if flag is not None and not isinstance(flag, bool):
        raise InvalidRequest(
            f"enable_thinking must be true or false, got {flag!r:.100}",
            param="chat_template_kwargs.enable_thinking",
        )
    return arguments
