"""The caller's side of OpenAI Chat: what is read, what is kept, what is rendered."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkroute.errors import EngineTimeout, InvalidRequest, OutOfScope, ThinkrouteError
from thinkroute.programs.driver import Delta
from thinkroute.programs.protocol import Chunk, TokenLogprob
from thinkroute.types import Effort, Usage
from thinkroute.wire.openai_chat.inbound import parse_request
from thinkroute.wire.openai_chat.rendering import Answer, Renderer, render_error, render_failure

USER = {"role": "user", "content": "Hi"}
json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**53), 2**53),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=10,
)


def body(**fields: Any) -> bytes:
    return orjson.dumps({"model": "auto", "messages": [USER], **fields})


@given(st.dictionaries(st.from_regex(r"x_[a-z]{1,8}", fullmatch=True), json_values, max_size=5), json_values)
def test_unknown_fields_are_kept_as_they_came(unknown: dict[str, Any], inside: Any) -> None:
    message = {**USER, "x_inside": inside}
    request = parse_request(body(messages=[message], **unknown))
    assert request.options == unknown
    assert request.messages == (message,)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_on_purpose(data: bytes) -> None:
    with suppress(ThinkrouteError):
        parse_request(data)


@given(st.dictionaries(
    st.sampled_from(["model", "messages", "stream", "max_tokens", "n", "reasoning", "reasoning_effort", "stream_options",
                     "chat_template_kwargs", "response_format", "tools", "max_completion_tokens", "enable_thinking"]),
    json_values, max_size=6,
))  # fmt: skip
def test_wrong_types_are_refused_on_purpose(fields: dict[str, Any]) -> None:
    with suppress(ThinkrouteError):
        parse_request(body(**fields))


def test_the_query_holds_what_routing_needs() -> None:
    request = parse_request(
        body(
            messages=[
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "First"},
                {"role": "assistant", "content": "Answer"},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "Look"}, {"type": "image_url", "image_url": {}}],
                },
            ],
            tools=[{"type": "function"}],
            response_format={"type": "json_object"},
            logprobs=True,
            max_tokens=5,
        )
    )
    assert request.query.text == "Look"
    assert request.query.context == "Be brief.\nFirst\nAnswer"
    assert request.query.needs == {"tools", "images", "json", "logprobs"}
    assert request.query.max_tokens == 5
    assert request.query.prompt_tokens > 0


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({}, None),
        ({"reasoning_effort": "none"}, Effort("off")),
        ({"reasoning_effort": "high"}, Effort("high")),
        ({"reasoning": {"effort": "low"}}, Effort("low")),
        ({"reasoning": {"max_tokens": 100}}, Effort("on", 100)),
        ({"reasoning": {"enabled": False}}, Effort("off")),
        ({"enable_thinking": True}, Effort("on")),
        ({"thinking_token_budget": 0}, Effort("off")),
        ({"chat_template_kwargs": {"thinking": True}}, Effort("on")),
        ({"reasoning_effort": "high", "enable_thinking": True}, Effort("high")),
        ({"reasoning_effort": "high", "thinking_token_budget": 9}, Effort("on", 9)),
    ],
)
def test_reasoning_fields_of_all_dialects_become_one_effort(
    fields: dict[str, Any], effort: Effort | None
) -> None:
    request = parse_request(body(**fields))
    assert request.effort == effort
    assert not set(request.options) & {
        "reasoning_effort",
        "reasoning",
        "enable_thinking",
        "chat_template_kwargs",
    }


def test_the_newer_name_of_the_cap_wins_and_is_remembered() -> None:
    request = parse_request(body(max_tokens=5, max_completion_tokens=7))
    assert request.max_tokens == 7
    assert request.options == {"max_completion_tokens": 7}


def test_a_null_field_is_an_absent_field() -> None:
    fields = dict.fromkeys(("stream", "max_tokens", "n", "reasoning", "reasoning_effort", "stream_options"))
    assert parse_request(body(**fields)).max_tokens is None


RENDERER = Renderer("chatcmpl-1", "small", 7)


def events(data: bytes) -> list[Any]:
    return [orjson.loads(part[6:]) for part in data.split(b"\n\n") if part and part != b"data: [DONE]"]


def test_an_answer_renders_in_openai_s_shape() -> None:
    answer = Answer(
        "hm", "four", "stop", Usage(3, 5, 2, 1, "reported"), {"body": {"system_fingerprint": "f"}}
    )
    rendered = orjson.loads(RENDERER.answer(answer, {"arm": "small@on"}))
    assert rendered["object"] == "chat.completion"
    assert rendered["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "four", "reasoning_content": "hm"},
            "finish_reason": "stop",
            "logprobs": None,
        }
    ]
    assert rendered["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 5,
        "total_tokens": 8,
        "completion_tokens_details": {"reasoning_tokens": 2},
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    assert rendered["system_fingerprint"] == "f"
    assert rendered["thinkroute"] == {"arm": "small@on"}


def test_an_answer_of_tool_calls_has_null_content() -> None:
    answer = Answer("", "", "tool_calls", Usage(), {"message": {"tool_calls": [{"id": "c"}]}})
    message = orjson.loads(RENDERER.answer(answer, {}))["choices"][0]["message"]
    assert (message["content"], message["tool_calls"]) == (None, [{"id": "c"}])


def test_deltas_render_by_channel_with_logprobs_and_foreign_fields() -> None:
    chunk = Chunk("answer", "four", (TokenLogprob("four", -0.1, (("five", -2.0),)),), {"message": {"x": 1}})
    event = RENDERER.delta(Delta("answer", "four", "m", chunk))
    assert event is not None
    (choice,) = events(event)[0]["choices"]
    assert choice["delta"] == {"content": "four", "x": 1}
    assert choice["logprobs"]["content"][0]["top_logprobs"][0]["token"] == "five"
    thought = RENDERER.delta(Delta("reasoning", "hm", "m"))
    assert thought is not None
    assert events(thought)[0]["choices"][0]["delta"] == {"reasoning_content": "hm"}
    assert RENDERER.delta(Delta("answer", "", "m", Chunk("answer", ""))) is None


def test_a_stream_ends_with_its_finish_reason_usage_and_done() -> None:
    data = RENDERER.closing("length", Usage(1, 2), {"arm": "a"})
    assert data.endswith(b"data: [DONE]\n\n")
    last, usage = events(data)
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["thinkroute"] == {"arm": "a"}
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 3


def test_errors_have_openai_s_shape_in_and_out_of_streams() -> None:
    error = OutOfScope("too far", param="messages")
    expected = {
        "message": "too far",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "fleet_out_of_scope",
    }
    assert orjson.loads(render_error(error)) == {"error": expected}
    assert events(render_failure(EngineTimeout("slow")))[0]["error"]["code"] == "upstream_timeout"


def test_a_wrong_effort_lists_the_right_ones() -> None:
    with pytest.raises(InvalidRequest, match="one of none, minimal, low"):
        parse_request(body(reasoning_effort="extreme"))
