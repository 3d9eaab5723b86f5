"""Options are honoured, judged neutral, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from thinkroute.engines.embedded.options import KNOWN_OPTIONS, read_sampling, read_stop, read_thinking
from thinkroute.errors import InvalidRequest, UnsupportedRequest
from thinkroute.programs.protocol import Call
from thinkroute.types import Effort


def call(effort: str, **options: Any) -> Call:
    return Call("student", [{"role": "user", "content": "x"}], Effort.parse(effort), options=options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2), ("tools", [{"type": "function"}]), ("functions", [{"name": "f"}]), ("presence_penalty", 0.5),
        ("frequency_penalty", -1), ("logit_bias", {"5": 1}), ("response_format", {"type": "json_object"}),
        ("tool_choice", "required"), ("repetition_penalty", 1.1), ("min_p", 0.1), ("modalities", ["audio"]),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(UnsupportedRequest) as caught:
        read_sampling({name: value})
    assert caught.value.param == name
    assert name in caught.value.message
    assert name in KNOWN_OPTIONS


@pytest.mark.parametrize(
    "options",
    [
        {
            "n": 1,
            "presence_penalty": 0.0,
            "frequency_penalty": 0,
            "logit_bias": {},
            "tools": [],
            "tool_choice": "none",
        },
        {
            "response_format": {"type": "text"},
            "user": "me",
            "metadata": {"a": "b"},
            "parallel_tool_calls": True,
        },
        {"temperature": None, "top_p": None, "stop": None, "seed": None, "logprobs": None, "tools": None},
    ],
)
def test_values_that_ask_for_nothing_are_accepted(options: dict[str, Any]) -> None:
    assert read_sampling(options).temperature == 0
    assert read_stop(options) == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1), ("temperature", 2.1), ("temperature", "hot"), ("temperature", True), ("top_p", 0),
        ("top_p", 1.5), ("top_k", 1.5), ("seed", "a"), ("seed", 1.0), ("logprobs", 3), ("top_logprobs", 21),
        ("top_logprobs", 2),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_sampling({name: value})
    assert caught.value.param == name


@pytest.mark.parametrize("value", ["", [""], [1], list("abcdefghijklmnopq"), 5])
def test_stop_strings_of_the_wrong_shape_are_refused(value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_stop({"stop": value})
    assert caught.value.param == "stop"


def test_stop_is_one_string_or_several() -> None:
    assert read_stop({"stop": "."}) == (".",)
    assert read_stop({"stop": ["a", "b"]}) == ("a", "b")


def test_the_effort_and_the_template_flag_decide_about_thinking() -> None:
    assert read_thinking(call("on"))
    assert read_thinking(call("default"))
    assert not read_thinking(call("off"))
    assert not read_thinking(call("default", chat_template_kwargs={"enable_thinking": False}))
    assert read_thinking(call("on", chat_template_kwargs={"enable_thinking": False}))


@pytest.mark.parametrize("effort", ["high", "budget=16"])
def test_efforts_the_template_cannot_express_are_refused(effort: str) -> None:
    with pytest.raises(UnsupportedRequest, match=effort):
        read_thinking(call(effort))


def test_unknown_template_flags_are_refused() -> None:
    with pytest.raises(UnsupportedRequest, match="tools_in_user_message"):
        read_thinking(call("on", chat_template_kwargs={"tools_in_user_message": True}))


@pytest.mark.parametrize(
    "kwargs", [["enable_thinking"], "no", 1, {"enable_thinking": "false"}, {"enable_thinking": 0}]
)
def test_template_arguments_of_the_wrong_kind_are_refused(kwargs: object) -> None:
    """A flag in quotes is no false: it would think."""
    with pytest.raises(InvalidRequest) as caught:
        read_thinking(call("default", chat_template_kwargs=kwargs))
    assert (caught.value.param or "").startswith("chat_template_kwargs")


def test_no_template_arguments_ask_for_nothing() -> None:
    assert read_thinking(call("default", chat_template_kwargs=None))
    assert read_thinking(call("default", chat_template_kwargs={"enable_thinking": None}))
