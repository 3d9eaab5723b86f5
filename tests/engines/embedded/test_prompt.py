"""The engine's prompt rendering is the Jinja chat template's, whatever the conversation."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkroute.engines.embedded.prompt import EMPTY_THINKING, last_turn, normalise, render
from thinkroute.fleet.shipped import directory

words = st.sampled_from(
    ["Take", "4.", " . ", "/think", "/no_think", "/THINK", "what?", "?", "\n", "  ", "é", "Dora ?"]
)
texts = st.lists(words, max_size=8).map(" ".join)
contents = st.one_of(texts, st.lists(texts.map(lambda text: {"type": "text", "text": text}), max_size=3))
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "assistant"]), "content": contents}),
    max_size=4,
)


@cache
def tokenizer() -> Any:
    import transformers

    return cast("Any", transformers).AutoTokenizer.from_pretrained(directory("teacher"))


@given(messages, st.booleans())
def test_rendering_equals_the_chat_template(conversation: list[dict[str, Any]], thinking: bool) -> None:
    conversation.append({"role": "user", "content": "Take 4. First plus 3. What is the last digit?"})
    expected = tokenizer().apply_chat_template(
        conversation, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )
    assert render(last_turn(conversation), thinking=thinking) == expected


def test_a_finished_assistant_turn_is_rendered_with_its_reasoning() -> None:
    conversation = [
        {"role": "user", "content": "Take 4."},
        {"role": "assistant", "reasoning_content": "so 4.", "content": "it is 4."},
    ]
    text = tokenizer().apply_chat_template(conversation, tokenize=False)
    assert text.endswith("<|im_start|>assistant\n<think>\nso 4.\n</think>\n\nit is 4.<|im_end|>\n")


@pytest.mark.parametrize("content", ["<think>\nfirst", [{"type": "text", "text": "<think>\nfirst"}]])
def test_a_started_assistant_turn_can_be_continued(content: object) -> None:
    """Servers that see a template iterate over content hand every message over in parts, strings included."""
    conversation = [
        {"role": "user", "content": "Take 4."},
        {"role": "assistant", "content": content},
    ]
    text = tokenizer().apply_chat_template(conversation, tokenize=False, continue_final_message=True)
    assert text.endswith("<|im_start|>assistant\n<think>\nfirst")


@pytest.mark.parametrize(
    ("contents", "switch"),
    [
        (["a /think b /no_think"], "/no_think"),
        (["a /no_think b /think"], "/think"),
        (["a /no_think", "b"], "/no_think"),
        (["a"], ""),
        (["a/think"], ""),
    ],
)
def test_the_last_soft_switch_of_the_conversation_wins(contents: list[str], switch: str) -> None:
    assert last_turn([{"role": "user", "content": content} for content in contents]).switch == switch


def test_the_hard_switch_prefills_an_empty_block() -> None:
    turn = last_turn([{"role": "user", "content": "a /think"}])
    assert render(turn, thinking=False) == render(turn) + EMPTY_THINKING


@given(st.text())
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    once = normalise(text)
    assert normalise(once) in (once, normalise(once))
    assert not once.endswith((".", "?", "!", " "))


def test_content_that_is_no_text_counts_as_empty() -> None:
    assert last_turn([{"role": "user", "content": None}]).question == ""
    assert last_turn([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]).question == ""
