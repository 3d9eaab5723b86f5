"""What a hand-over looks like on the wire: raw prompts without commands, and a stop text that servers take away."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from thinkroute.catalog import Model, family_named
from thinkroute.programs.protocol import Call, Segment
from thinkroute.programs.relay import CALL
from thinkroute.types import Effort
from thinkroute.wire.openai_chat.outbound import render_request
from thinkroute.wire.openai_chat.upstream_reply import ReplyReader
from thinkroute.wire.raw_prompt import has_raw_template
from thinkroute.wire.sse import Event

MESSAGES = [{"role": "user", "content": "2 * 4?"}]


def model(family: str = "qwen3") -> Model:
    return Model("m", "up", "http", family_named(family), "http://x/v1", continuation="completions")


def call(effort: str = "off", *said: str, **more: Any) -> Call:
    return Call("m", MESSAGES, Effort.parse(effort), tuple(Segment(text, "student") for text in said), **more)


def test_a_message_that_will_be_continued_begins_raw_and_stops_at_the_command_beside_the_callers_stops() -> (
    None
):
    request = render_request(call(until_text="</call>", options={"stop": "END"}), model())
    assert request.path == "/completions"
    assert request.body["stop"] == ["END", "</call>"]
    assert request.body["prompt"].endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_a_teacher_is_sent_the_message_without_commands() -> None:
    request = render_request(call("on", "<think>\n2 * 4 is<call> 1</call>", " 8", without=CALL), model())
    assert request.body["prompt"].endswith("<|im_start|>assistant\n<think>\n2 * 4 is 8")
    assert "stop" not in request.body


@pytest.mark.parametrize(
    ("family", "effort", "opening"),
    [
        ("qwen3", "on", ""),
        ("qwen3", "off", "<think>\n\n</think>\n\n"),
        ("thinkroute-fleet", "off", "<think>\n\n</think>\n\n"),
        ("thinkroute-fleet-thinking", "on", ""),
        ("deepseek-r1", "on", "<think>\n"),
        ("qwen3-thinking-2507", "on", "<think>\n"),
        ("qwen3-instruct-2507", "off", ""),
    ],
)
def test_a_raw_message_begins_as_the_familys_template_would_begin_it(
    family: str, effort: str, opening: str
) -> None:
    assert has_raw_template(family_named(family))
    prompt = render_request(call(effort, until_text="x"), model(family)).body["prompt"]
    assert prompt.rpartition("user")[2].rpartition("2 * 4")[2].endswith(opening)
    assert prompt.count("<think>") == opening.count("<think>")


@pytest.mark.parametrize("name", ["stop_reason", "matched_stop", "stopping_word"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_stop_text_that_the_server_names_stands_in_the_segment_and_is_not_forwarded(
    name: str, streamed: bool
) -> None:
    reader = ReplyReader(call(until_text="</call>"), model())
    choice = {"index": 0, "text": "it is<call> 3", "finish_reason": "stop", name: "</call>"}
    body = orjson.dumps({"choices": [choice]})
    if streamed:
        chunks = reader.read_event(Event(body.decode()))
        chunks += reader.read_event(Event('{"choices": [], "usage": {"prompt_tokens": 1}}'))
        chunks += reader.close()
    else:
        chunks = reader.read_body(body)
    segment = reader.segment()
    assert (segment.text, segment.finish) == ("it is<call> 3</call>", "text_end")
    assert "call>" not in str([chunk.upstream for chunk in chunks])


def test_a_natural_end_stays_one() -> None:
    reader = ReplyReader(call(until_text="</call>"), model())
    reader.read_body(b'{"choices": [{"text": "it is 8", "finish_reason": "stop", "stop_reason": null}]}')
    assert (reader.segment().text, reader.segment().finish) == ("it is 8", "stop")
