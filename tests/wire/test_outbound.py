"""The upstream side of OpenAI's dialect: what is sent, and what any reply becomes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkroute.catalog import Model, family_named
from thinkroute.errors import (
    EngineError,
    EngineInterrupted,
    EngineRejected,
    InvalidRequest,
    UnsupportedRequest,
)
from thinkroute.programs.protocol import Call, Chunk, Segment
from thinkroute.types import FORCED, Effort, Usage
from thinkroute.wire.openai_chat.outbound import render_request
from thinkroute.wire.openai_chat.upstream_errors import rejection
from thinkroute.wire.openai_chat.upstream_reply import ReplyReader
from thinkroute.wire.sse import Event

QUESTION = [{"role": "user", "content": "what is 2+2?"}]
CLOSED = (
    Segment("<think>\nhm, two and two", "m", "length", thinking_closed=False),
    Segment("\nenough.\n</think>\n\n", FORCED, thinking_closed=True),
)
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
# Objects with the dialect's own names in random places get far deeper into the reader than arbitrary JSON does.
_NAMES = st.sampled_from([
    "choices", "delta", "message", "content", "reasoning", "reasoning_content", "tool_calls", "finish_reason", "usage",
    "prompt_tokens", "completion_tokens", "completion_tokens_details", "reasoning_tokens", "text", "type", "thinking",
    "logprobs", "error", "code", "detail", "object", "index", "token", "logprob", "top_logprobs",
])  # fmt: skip
_LIKE_REPLIES = st.recursive(
    _JSON | st.sampled_from(["stop", "length", "error", "text", "thinking", "<think>", "</think>"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_NAMES, inner, max_size=5),
    max_leaves=25,
)


def model_of(family: str = "qwen3", **fields: Any) -> Model:
    base = Model("m", "org/up", "http", family_named(family), base_url="http://127.0.0.1:1/v1")
    return replace(base, **fields)


def call(**fields: Any) -> Call:
    return replace(Call("m", QUESTION), **fields)


def body_of(a_call: Call, model: Model | None = None) -> Mapping[str, Any]:
    return render_request(a_call, model or model_of()).body


def read(
    *payloads: Any, a_call: Call | None = None, model: Model | None = None
) -> tuple[list[Chunk], Segment]:
    """The chunks and the segment of a stream of payloads."""
    reader = ReplyReader(a_call or call(), model or model_of())
    chunks = [
        chunk for payload in payloads for chunk in reader.read_event(Event(orjson.dumps(payload).decode()))
    ]
    return chunks + reader.close(), reader.segment()


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def whole(message: Mapping[str, Any], finish: str | None = "stop", **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}], **fields}


def read_whole(
    payload: Any, a_call: Call | None = None, model: Model | None = None
) -> tuple[list[Chunk], Segment]:
    reader = ReplyReader(a_call or call(stream=False), model or model_of())
    return reader.read_body(orjson.dumps(payload)), reader.segment()


def said(chunks: list[Chunk]) -> dict[str, str]:
    texts = {"reasoning": "", "answer": ""}
    for chunk in chunks:
        texts[chunk.channel] += chunk.text
    return texts


@given(st.dictionaries(st.text(min_size=1, max_size=8).map(lambda name: f"x_{name}"), _JSON, max_size=5))
def test_unknown_fields_are_sent_as_they_came(options: dict[str, Any]) -> None:
    body = body_of(call(options=options, effort=Effort("off"), max_tokens=5))
    assert {name: body[name] for name in options} == options


@given(st.dictionaries(_NAMES, _JSON, max_size=5), st.booleans())
def test_rendering_never_touches_what_it_was_given(options: dict[str, Any], stream: bool) -> None:
    before = orjson.dumps(options)
    render_request(call(options=options, stream=stream), model_of())
    assert orjson.dumps(options) == before


def test_the_upstream_gets_its_own_name_for_the_model() -> None:
    assert (body_of(call())["model"], body_of(call())["messages"]) == ("org/up", QUESTION)


def test_streams_ask_for_usage_and_keep_the_callers_stream_options() -> None:
    body = body_of(call(options={"stream_options": {"x": 1}}))
    assert (body["stream"], body["stream_options"]) == (True, {"x": 1, "include_usage": True})


def test_a_request_that_does_not_stream_has_no_stream_options() -> None:
    body = body_of(call(stream=False, options={"stream_options": {"include_usage": True}}))
    assert body["stream"] is False
    assert "stream_options" not in body


@pytest.mark.parametrize(
    ("options", "cap", "expected"),
    [
        ({}, 5, {"max_tokens": 5}),
        ({"max_tokens": 9}, 5, {"max_tokens": 5}),
        ({"max_completion_tokens": 9}, 5, {"max_completion_tokens": 5}),
        ({"max_completion_tokens": 9, "max_tokens": 9}, 5, {"max_completion_tokens": 5}),
        ({"max_completion_tokens": 9}, None, {"max_completion_tokens": 9}),
        ({}, None, {}),
    ],
)
def test_the_cap_keeps_the_name_the_caller_used(
    options: dict[str, Any], cap: int | None, expected: dict[str, Any]
) -> None:
    body = body_of(call(options=options, max_tokens=cap))
    assert {name: value for name, value in body.items() if name.startswith("max_")} == expected


@pytest.mark.parametrize(
    ("family", "effort", "expected"),
    [
        ("qwen3", "off", {"chat_template_kwargs": {"enable_thinking": False}}),
        ("qwen3", "on", {"chat_template_kwargs": {"enable_thinking": True}}),
        ("qwen3", "budget=64", {"chat_template_kwargs": {"enable_thinking": True}}),
        ("qwen3", "default", {}),
        ("deepseek-v3.1", "off", {"chat_template_kwargs": {"thinking": False}}),
        ("openai-5.1", "off", {"reasoning_effort": "none"}),
        ("openai-5.1", "high", {"reasoning_effort": "high"}),
        ("openai-5.1", "on", {"reasoning_effort": "medium"}),
        ("openai-5.1", "default", {}),
        ("gpt-oss", "off", {"reasoning_effort": "low"}),
        ("openai-5", "off", {"reasoning_effort": "minimal"}),
        ("deepseek-r1", "on", {}),
        ("ollama", "off", {"reasoning_effort": "none"}),
        ("ollama", "default", {}),
        ("plain", "off", {}),
    ],
)
def test_each_family_gets_its_own_reasoning_control(
    family: str, effort: str, expected: dict[str, Any]
) -> None:
    body = body_of(call(effort=Effort.parse(effort)), model_of(family))
    assert {name: value for name, value in body.items() if name not in body_of(call())} == expected


def test_the_callers_template_flags_stay_beside_ours() -> None:
    body = body_of(call(effort=Effort("off"), options={"chat_template_kwargs": {"tone": "dry"}}))
    assert body["chat_template_kwargs"] == {"tone": "dry", "enable_thinking": False}


def test_a_decided_effort_replaces_the_callers_own_word_and_default_leaves_it() -> None:
    options = {"reasoning_effort": "high"}
    assert "reasoning_effort" not in body_of(call(options=options, effort=Effort("off")))
    assert body_of(call(options=options))["reasoning_effort"] == "high"


def test_a_server_that_enforces_budgets_itself_is_told_the_budget() -> None:
    model = model_of(thinking_budget_field="thinking_token_budget")
    assert body_of(call(effort=Effort("on", 64)), model)["thinking_token_budget"] == 64
    assert "thinking_token_budget" not in body_of(call(effort=Effort("on")), model)


def test_a_prefix_is_continued_by_prefill() -> None:
    request = render_request(call(prefix=CLOSED), model_of(continuation="prefill"))
    assert request.path == "/chat/completions"
    assert request.body["messages"][-1] == {
        "role": "assistant",
        "content": "<think>\nhm, two and two\nenough.\n</think>\n\n",
    }
    assert (request.body["continue_final_message"], request.body["add_generation_prompt"]) == (True, False)


def test_a_prefix_is_continued_by_raw_completions_in_the_familys_template() -> None:
    messages = [{"role": "system", "content": "be brief"}, *QUESTION]
    options = {"max_completion_tokens": 9, "logprobs": True, "top_logprobs": 3, "seed": 1}
    request = render_request(
        call(messages=messages, prefix=CLOSED, options=options, effort=Effort("on")),
        model_of(continuation="completions"),
    )
    assert request.path == "/completions"
    assert request.body == {
        "model": "org/up",
        "prompt": "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nwhat is 2+2?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nhm, two and two\nenough.\n</think>\n\n",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 9,
        "logprobs": 3,
        "seed": 1,
    }


def test_old_thoughts_are_left_out_and_each_family_has_its_own_template() -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "1+1"}, {"type": "text", "text": "please"}]},
        {"role": "assistant", "content": "<think>\none and one\n</think>\n\n2"},
        *QUESTION,
    ]
    model = model_of("deepseek-r1", continuation="completions")
    prompt = render_request(call(messages=messages, prefix=CLOSED[:1]), model).body["prompt"]
    assert prompt == (
        "be brief<\uff5cUser\uff5c>1+1\nplease<\uff5cAssistant\uff5c>2<\uff5cend\u2581of\u2581sentence\uff5c>"
        "<\uff5cUser\uff5c>what is 2+2?<\uff5cAssistant\uff5c><think>\nhm, two and two"
    )


def test_a_raw_prompt_for_a_fleet_member_is_what_its_chat_template_renders() -> None:
    messages = [
        {"role": "system", "content": "be brief /think"},
        {"role": "user", "content": "Begin with 9."},
        {"role": "assistant", "content": "9"},
        {"role": "user", "content": "Take 4.  First plus 3. What is the last digit ?"},
    ]
    model = model_of("thinkroute-fleet", continuation="completions")
    prompt = render_request(call(messages=messages, prefix=CLOSED), model).body["prompt"]
    assert prompt == (
        "<|im_start|>user\ntake 4. first plus 3. what is the last digit /think<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nhm, two and two\nenough.\n</think>\n\n"
    )


def test_without_a_prefix_the_server_applies_its_own_template() -> None:
    assert render_request(call(), model_of(continuation="completions")).path == "/chat/completions"


@pytest.mark.parametrize(
    ("a_call", "model", "message"),
    [
        (call(prefix=CLOSED), model_of(), "cannot continue its own message"),
        (call(prefix=CLOSED), model_of("gpt-oss", continuation="completions"), "has no raw template"),
        (
            call(prefix=CLOSED, options={"tools": [{}]}),
            model_of(continuation="completions"),
            "cannot carry `tools`",
        ),
        (
            call(prefix=CLOSED, messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
            model_of(continuation="completions"),
            "carry text only",
        ),
        (
            call(prefix=CLOSED, messages=[{"role": "tool", "content": "4"}]),
            model_of(continuation="completions"),
            "'tool' message",
        ),
        (call(options={"n": 2}), model_of(), "n=2"),
    ],
)
def test_what_cannot_be_honoured_is_refused(a_call: Call, model: Model, message: str) -> None:
    with pytest.raises(UnsupportedRequest, match=message):
        render_request(a_call, model)


def test_a_field_that_must_be_merged_needs_the_right_type() -> None:
    with pytest.raises(InvalidRequest, match="`chat_template_kwargs` must be an object, not str"):
        body_of(call(effort=Effort("off"), options={"chat_template_kwargs": "x"}))


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_fields_become_the_reasoning_channel_and_a_raw_message(field: str) -> None:
    chunks, segment = read(delta(**{field: "hm, "}), delta(**{field: "two"}), delta("stop", content="Four."))
    assert said(chunks) == {"reasoning": "hm, two", "answer": "Four."}
    assert (segment.text, segment.thinking_closed) == ("<think>\nhm, two\n</think>\n\nFour.", True)


def test_a_server_that_sends_both_fields_is_read_once() -> None:
    chunks, _ = read(delta("stop", reasoning="hm", reasoning_content="hm"))
    assert said(chunks)["reasoning"] == "hm"


@pytest.mark.parametrize("stream", [True, False])
def test_content_in_parts_is_read_and_unknown_parts_are_kept(stream: bool) -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "Four."},
        {"type": "audio", "id": 1},
    ]
    chunks, segment = read(delta("stop", content=parts)) if stream else read_whole(whole({"content": parts}))
    assert said(chunks) == {"reasoning": "hm", "answer": "Four."}
    assert chunks[-1].upstream["message"] == {"content_parts": [{"type": "audio", "id": 1}]}
    assert segment.text == "<think>\nhm\n</think>\n\nFour."


def test_a_template_that_opens_the_block_leaves_only_the_close_tag() -> None:
    """Families that always think start inside the block; others show it, when the whole text is known."""
    thinker = model_of("deepseek-r1")
    chunks, segment = read(delta(content="hm\n</th"), delta("stop", content="ink>\n\nFour."), model=thinker)
    assert said(chunks) == {"reasoning": "hm", "answer": "Four."}
    assert segment.text == "<think>\nhm\n</think>\n\nFour."
    chunks, segment = read_whole(whole({"content": "hm\n</think>\n\nFour."}))
    assert said(chunks) == {"reasoning": "hm", "answer": "Four."}
    assert segment.text == "<think>\nhm\n</think>\n\nFour."
    chunks, _ = read_whole(whole({"content": "Four."}), model=thinker)
    assert said(chunks) == {"reasoning": "", "answer": "Four."}


def test_with_thinking_off_a_close_tag_is_only_text() -> None:
    chunks, _ = read_whole(
        whole({"content": "write </think> here"}), call(effort=Effort("off"), stream=False)
    )
    assert said(chunks) == {"reasoning": "", "answer": "write </think> here"}


def test_thinking_cut_by_the_cap_is_still_open() -> None:
    for chunk in (delta("length", reasoning="hm"), delta("length", content="<think>\nhm")):
        _, segment = read(chunk)
        assert (segment.text, segment.finish, segment.thinking_closed) == ("<think>\nhm", "length", False)


def test_a_cap_too_small_to_show_any_thinking_leaves_the_block_open() -> None:
    for _, segment in (read(delta("length", content="")), read_whole(whole({"content": ""}, "length"))):
        assert (segment.text, segment.thinking_closed) == ("<think>\n", False)
    for a_call, model in ((call(effort=Effort("off")), model_of()), (call(), model_of("plain"))):
        _, segment = read(delta("length"), a_call=a_call, model=model)
        assert (segment.text, segment.thinking_closed) == ("", True)
    _, segment = read(delta("length"), a_call=call(prefix=CLOSED))
    assert (segment.text, segment.thinking_closed) == ("", True)


def test_a_cut_thought_of_a_family_that_always_thinks_is_a_thought() -> None:
    chunks, segment = read_whole(whole({"content": "hm"}, "length"), model=model_of("deepseek-r1"))
    assert said(chunks)["reasoning"] == "hm"
    assert (segment.text, segment.thinking_closed) == ("<think>\nhm", False)


@pytest.mark.parametrize("field", ["content", "reasoning", "reasoning_content"])
def test_after_a_closed_block_everything_is_the_answer(field: str) -> None:
    model = model_of(continuation="prefill")
    chunks, segment = read(
        delta("stop", **{field: "Four </think>."}), a_call=call(prefix=CLOSED), model=model
    )
    assert said(chunks) == {"reasoning": "", "answer": "Four </think>."}
    assert (segment.text, segment.thinking_closed) == ("Four </think>.", True)


@pytest.mark.parametrize(
    "deltas",
    [
        [{"content": "<think>\nhm, two and two\nenough.\n</think>\n\nFour."}],
        [
            {"content": "<think>\nhm, two and "},
            {"content": "two\nenough.\n</think>\n"},
            {"content": "\nFour."},
        ],
        [{"reasoning_content": "hm, two and two\nenough."}, {"content": "Four."}],
        [{"content": "Four."}],
    ],
)
def test_a_repeated_prefill_is_not_told_to_the_caller(deltas: list[dict[str, str]]) -> None:
    payloads = [*(delta(**fields) for fields in deltas), delta("stop")]
    chunks, segment = read(*payloads, a_call=call(prefix=CLOSED), model=model_of(continuation="prefill"))
    assert said(chunks) == {"reasoning": "", "answer": "Four."}
    assert segment.text == "Four."


def test_an_answer_that_begins_like_the_prefix_is_kept() -> None:
    chunks, _ = read(delta(content="<think>\nhm"), delta("stop"), a_call=call(prefix=CLOSED))
    assert said(chunks)["answer"] == "<think>\nhm"


def test_an_open_prefix_goes_on_thinking() -> None:
    chunks, segment = read(
        delta(content=" more\n</think>\n\nFour."), delta("stop"), a_call=call(prefix=CLOSED[:1])
    )
    assert said(chunks) == {"reasoning": " more", "answer": "Four."}
    assert (segment.text, segment.thinking_closed) == (" more\n</think>\n\nFour.", True)


def test_fields_we_do_not_own_are_grouped_for_the_caller() -> None:
    first = delta(role="assistant", content="", tool_calls=[{"index": 0, "id": "c"}], refusal=None)
    first["choices"][0]["logprobs"] = {"content": [{"token": "x", "logprob": -1, "top_logprobs": []}]}
    first |= {"system_fingerprint": "fp", "service_tier": "flex", "x_new": {"a": 1}, "id": "1", "model": "up"}
    chunks, segment = read(first, delta("stop", content="Four.") | {"system_fingerprint": "fp"})
    assert chunks[0].text == ""
    assert chunks[0].upstream == {
        "choice": {"logprobs": {"content": [{"token": "x", "logprob": -1, "top_logprobs": []}]}},
        "message": {"tool_calls": [{"index": 0, "id": "c"}]},
        "body": {"system_fingerprint": "fp", "service_tier": "flex", "x_new": {"a": 1}},
    }
    assert chunks[1].upstream == {}, "what every chunk repeats is told once"
    assert segment.upstream["body"] == {"system_fingerprint": "fp", "service_tier": "flex", "x_new": {"a": 1}}


def test_the_opening_role_is_no_token() -> None:
    chunks, _ = read(
        delta(role="assistant", content="") | {"system_fingerprint": "fp"}, delta("stop", content="Hi")
    )
    assert [chunk.text for chunk in chunks] == ["Hi"]


@pytest.mark.parametrize(
    ("finish", "expected"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "tool_calls"),
        ("function_call", "tool_calls"),
        ("content_filter", "content_filter"),
        ("eos", "stop"),
    ],
)
def test_finish_reasons_are_understood(finish: str, expected: str) -> None:
    assert read(delta(finish, content="Hi"))[1].finish == expected


def test_a_finish_that_means_failure_is_an_error() -> None:
    with pytest.raises(EngineInterrupted, match="gave up"):
        read(delta("abort"))


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 7,
                "completion_tokens_details": {"reasoning_tokens": 4},
            },
            Usage(9, 7, 4, 0, "reported"),
        ),
        ({"prompt_tokens": 9, "completion_tokens": 7, "reasoning_tokens": 4}, Usage(9, 7, 4, 0, "reported")),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 7,
                "reasoning_tokens": 4,
                "prompt_tokens_details": {"cached_tokens": 8},
            },
            Usage(9, 7, 4, 8, "reported"),
        ),
        # Not reported, or 0 beside visible reasoning: split by length (8 and 4 characters), and only an estimate.
        ({"prompt_tokens": 9, "completion_tokens": 9}, Usage(9, 9, 6, 0, "estimated")),
        ({"prompt_tokens": 9, "completion_tokens": 9, "reasoning_tokens": 0}, Usage(9, 9, 6, 0, "estimated")),
        # The total shows that the completion count left the reasoning out.
        (
            {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 16, "reasoning_tokens": 4},
            Usage(9, 7, 4, 0, "reported"),
        ),
        ({"prompt_tokens": "many", "completion_tokens": 7}, Usage(3, 3, 2, 0, "estimated")),
        ({"prompt_tokens": -1, "completion_tokens": 7}, Usage(3, 3, 2, 0, "estimated")),
        ("lots", Usage(3, 3, 2, 0, "estimated")),
        (None, Usage(3, 3, 2, 0, "estimated")),
    ],
)
def test_usage_says_where_its_counts_come_from(usage: Any, expected: Usage) -> None:
    _, segment = read(delta("stop", reasoning="12345678", content="1234"), {"choices": [], "usage": usage})
    assert segment.usage == expected


def test_a_usage_chunk_without_choices_is_understood() -> None:
    _, segment = read(delta("stop", content="Hi"), {"usage": {"prompt_tokens": 1, "completion_tokens": 1}})
    assert segment.usage == Usage(1, 1, 0, 0, "reported")


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        ({"error": {"message": "no", "code": 400}}, 400),
        ({"error": {"message": "no", "code": "429"}}, 429),
        ({"error": {"message": "no", "type": "rate_limit_error"}}, 429),
        ({"error": {"message": "no", "type": "invalid_request_error"}}, 400),
        ({"object": "error", "message": "no", "code": 404}, 404),
    ],
)
def test_an_error_object_with_a_status_is_a_rejection_in_either_kind_of_reply(
    payload: Any, status: int
) -> None:
    for reading in (read, read_whole):
        with pytest.raises(EngineRejected, match=r"no$") as raised:
            reading(payload)
        assert raised.value.status == status


def test_an_error_object_without_a_status_interrupts_a_stream_and_fails_a_body() -> None:
    with pytest.raises(EngineInterrupted, match=r"boom$"):
        read(delta(content="Hi"), {"error": "boom"})
    with pytest.raises(EngineRejected, match=r"boom$") as raised:
        read_whole({"error": "boom"})
    assert raised.value.status == 500


@pytest.mark.parametrize(
    ("body", "said_by_upstream"),
    [
        (b'{"error": {"message": "no"}}', {"message": "no"}),
        (b'{"error": "no"}', {"message": "no"}),
        (b'{"detail": "no"}', {"message": "no"}),
        (b'{"detail": [{"msg": "no"}]}', {"message": '[{"msg":"no"}]'}),
        (b'{"message": "no"}', {"message": "no"}),
        (b"<html>no</html>", None),
        (b"", None),
        (b"[]", None),
    ],
)
def test_error_bodies_of_all_shapes_are_understood(body: bytes, said_by_upstream: Any) -> None:
    error = rejection(model_of(), 400, body)
    assert (error.status, error.body) == (400, said_by_upstream)


def in_choice(choice: object) -> dict[str, Any]:
    return {"choices": [choice]}


def in_delta(fields: object) -> dict[str, Any]:
    return in_choice({"delta": fields, "finish_reason": "stop"})


def in_message(fields: object) -> dict[str, Any]:
    return in_choice({"message": fields})


@given(_LIKE_REPLIES | _LIKE_REPLIES.map(in_choice) | _LIKE_REPLIES.map(in_delta))
def test_any_json_in_a_stream_is_chunks_or_an_engine_error(payload: Any) -> None:
    reader = ReplyReader(call(), model_of())
    try:
        chunks = reader.read_event(Event(orjson.dumps(payload).decode())) + reader.close()
    except EngineError:
        return
    assert all(chunk.channel in ("reasoning", "answer") for chunk in chunks)
    assert reader.segment().usage.completion_tokens >= 0


@given(_LIKE_REPLIES | _LIKE_REPLIES.map(in_choice) | _LIKE_REPLIES.map(in_message))
def test_any_json_body_is_chunks_or_an_engine_error(payload: Any) -> None:
    reader = ReplyReader(call(stream=False), model_of())
    try:
        chunks = reader.read_body(orjson.dumps(payload))
    except EngineError:
        return
    assert len([chunk for chunk in chunks if chunk.text]) <= 2
    assert isinstance(reader.segment(), Segment)


@given(st.binary(max_size=60))
def test_any_bytes_are_chunks_or_an_engine_error(body: bytes) -> None:
    with pytest.raises(EngineError):
        ReplyReader(call(stream=False), model_of()).read_body(body)


@given(
    st.lists(st.sampled_from(["hm ", "two\n", "<", "/think>", "word"]), min_size=1, max_size=8),
    st.lists(st.sampled_from(["Four", ".", "\n\n", " "]), min_size=1, max_size=5),
    st.integers(1, 5),
)
def test_a_stream_and_a_body_of_the_same_tagged_text_agree(
    thoughts: list[str], answers: list[str], step: int
) -> None:
    thought = "".join(thoughts).replace("</think>", "")
    text = f"<think>\n{thought}\n</think>\n\n{''.join(answers)}"
    pieces = [delta(content=text[i : i + step]) for i in range(0, len(text), step)]
    streamed, stream_segment = read(*pieces, delta("stop"))
    at_once, body_segment = read_whole(whole({"content": text}))
    assert said(streamed) == said(at_once)
    assert stream_segment.text == body_segment.text == text


@given(
    st.lists(st.sampled_from(["hm ", "two\n", "\n", "word"]), min_size=1, max_size=8),
    st.lists(st.sampled_from(["Four", ".", "\n\n", " "]), min_size=1, max_size=5),
    st.booleans(),
)
def test_a_server_that_cuts_at_the_tags_alone_gives_the_same_channels_as_the_tagged_text(
    thoughts: list[str], answers: list[str], stream: bool
) -> None:
    """VLLM's parsers leave the line feeds of the layout in their fields: `\\nhm\\n` and `\\n\\nFour.`"""
    parts = ["\n", *thoughts, "\n"]
    contents = ["\n\n", *answers]
    tagged, expected = read_whole(whole({"content": f"<think>{''.join(parts)}</think>{''.join(contents)}"}))
    if stream:
        deltas = [delta(reasoning=part) for part in parts] + [delta(content=part) for part in contents]
        chunks, segment = read(*deltas, delta("stop"))
    else:
        chunks, segment = read_whole(whole({"reasoning": "".join(parts), "content": "".join(contents)}))
    assert said(chunks) == said(tagged)
    assert segment.text == expected.text


def test_line_feeds_before_a_cut_are_the_thoughts_own() -> None:
    chunks, segment = read(delta(reasoning="\nhm"), delta(reasoning="\n"), delta("length"))
    assert said(chunks)["reasoning"] == "hm\n"
    assert segment.text == "<think>\nhm\n"
