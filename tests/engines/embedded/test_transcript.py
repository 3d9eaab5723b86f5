"""Channels, stop strings and counts, on the real tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle

from hypothesis import given
from hypothesis import strategies as st

from thinkroute.engines.embedded.sampling import Choice
from thinkroute.engines.embedded.transcript import Limits, Transcript, held_back
from thinkroute.engines.embedded.vocabulary import Vocabulary
from thinkroute.fleet.shipped import directory
from thinkroute.programs.protocol import Chunk

VOCABULARY = Vocabulary(directory("student") / "tokenizer.json")


def feed(
    text: str, *, stop: Sequence[str] = (), thinking: bool = False, **limits: int
) -> tuple[Transcript, list[Chunk]]:
    transcript = Transcript(
        VOCABULARY,
        Limits(limits.get("max_tokens", 1000), tuple(stop)),
        thinking=thinking,
        wants_logprobs=True,
    )
    chunks: list[Chunk] = []
    for token_id in VOCABULARY.encode(text):
        chunks += transcript.take([token_id], [Choice(token_id, -0.5)])
        if transcript.finish:
            break
    return transcript, chunks


def joined(chunks: Sequence[Chunk], channel: str) -> str:
    return "".join(chunk.text for chunk in chunks if chunk.channel == channel)


def test_a_thinking_message_is_split_into_its_channels_without_tags() -> None:
    transcript, chunks = feed("<think>\nfirst 4 plus 3 is 7.\n</think>\n\nit is 7.<|im_end|>")
    assert joined(chunks, "reasoning") == "first 4 plus 3 is 7."
    assert joined(chunks, "answer") == "it is 7."
    assert transcript.text == "<think>\nfirst 4 plus 3 is 7.\n</think>\n\nit is 7."
    assert transcript.finish == "stop"
    assert transcript.token_ids[-1] == VOCABULARY.end_id
    assert transcript.reasoning_tokens == 9


def test_a_message_cut_inside_the_block_is_still_thinking() -> None:
    transcript, chunks = feed("<think>\nfirst 4", max_tokens=3)
    assert (transcript.finish, transcript.thinking) == ("length", True)
    assert joined(chunks, "reasoning") == "first"


def test_text_without_a_block_is_all_answer() -> None:
    _, chunks = feed("\n\nit is 7.\n<|im_end|>")
    assert joined(chunks, "answer") == "it is 7.\n"


@given(st.lists(st.sampled_from([" plus", " 3", ".", "\n", "é", "🎉", " is"]), max_size=12).map("".join))
def test_chunks_of_an_answer_concatenate_to_its_text(answer: str) -> None:
    transcript, chunks = feed(f"{answer}<|im_end|>")
    assert transcript.text == answer
    assert joined(chunks, "answer") == answer.lstrip("\n")


@given(
    st.lists(st.sampled_from(["a", "b", " plus", " 3", "é"]), max_size=12).map("".join),
    st.lists(st.sampled_from(["ab", "ba", " 3", "plus 3", "bb"]), max_size=3),
)
def test_the_text_ends_before_the_first_stop_string(text: str, stops: list[str]) -> None:
    transcript, chunks = feed(f"{text}<|im_end|>", stop=stops)
    ends = [found + len(stop) for stop in stops if (found := text.find(stop)) >= 0]
    shortest = text[: min(ends)] if ends else text
    begins = [found for stop in stops if (found := shortest.find(stop)) >= 0]
    expected = shortest[: min(begins)] if begins else text
    assert transcript.text == expected
    assert joined(chunks, "answer") == expected
    assert transcript.finish == "stop"


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "a", " 3", "\n"]), max_size=12).map("".join),
    st.lists(st.sampled_from(["</think>", "a</think>\n", "\n</", " 3a", "<think>\n"]), max_size=3),
)
def test_raw_text_ends_before_the_first_stop_string_tags_or_not(text: str, stops: list[str]) -> None:
    transcript = Transcript(VOCABULARY, Limits(1000, tuple(stops)), thinking=False, raw=True)
    chunks: list[Chunk] = []
    for token_id in VOCABULARY.encode(f"{text}<|im_end|>"):
        if transcript.finish is None:
            chunks += transcript.take([token_id])
    assert joined(chunks, "answer") == transcript.text
    ends = [(transcript.text + stop) for stop in stops if text.startswith(transcript.text + stop)]
    assert ends or transcript.text == text
    assert not any(stop in transcript.text for stop in stops)


def test_a_stop_string_in_the_reasoning_does_not_stop() -> None:
    transcript, _ = feed("<think>\nfirst 4.\n</think>\n\nit is 4. done", stop=["."])
    assert transcript.text == "<think>\nfirst 4.\n</think>\n\nit is 4"


def test_the_end_of_a_text_that_may_become_a_stop_string_is_held_back() -> None:
    assert held_back("it is", ("is 4",)) == 2
    assert held_back("it is", ("x",)) == 0
    assert held_back("aa", ("aab",)) == 2


def test_logprobs_of_visible_tokens_arrive_with_their_chunks() -> None:
    transcript, chunks = feed("<think>\nfirst 4\n</think>\n\nit is<|im_end|>")
    shown = [entry.token for chunk in chunks for entry in chunk.logprobs or ()]
    assert shown[:2] == ["first", " 4"]
    assert "".join(shown[2:]) == "it is"
    assert len(transcript.logprobs) == len(transcript.token_ids)


def test_stopping_at_the_close_tag_leaves_the_line_break_to_the_next_call() -> None:
    transcript = Transcript(VOCABULARY, Limits(100, until_thinking_end=True), thinking=True)
    for token_id in VOCABULARY.encode("first\n</think>"):
        transcript.take([token_id])
    assert (transcript.finish, transcript.thinking) == ("thinking_end", False)
    assert transcript.text.endswith("\n</think>")


@given(
    st.lists(
        st.sampled_from(["first", " 4", ".", "\n", "é", "<think>", "</think>", "<|im_end|>", " is"]),
        max_size=20,
    ),
    st.lists(st.integers(1, 4), min_size=1, max_size=10),
    st.sampled_from([(), (" is",), (".", "4 is")]),
    st.integers(1, 25),
    st.booleans(),
    st.booleans(),
)
def test_however_tokens_are_divided_over_calls_the_message_is_the_same(
    words: list[str], sizes: list[int], stop: tuple[str, ...], most: int, until_end: bool, logprobs: bool
) -> None:
    token_ids = VOCABULARY.encode("".join(words))[:most]
    limits = Limits(most, stop, until_thinking_end=until_end)

    def outcome(parts: Iterable[Sequence[int]]) -> tuple[object, ...]:
        transcript = Transcript(VOCABULARY, limits, thinking=False, wants_logprobs=logprobs)
        chunks: list[Chunk] = []
        for part in parts:
            if transcript.finish is None:
                chunks += transcript.take(part, [Choice(token_id, -0.5) for token_id in part])
        shown = [entry for chunk in chunks for entry in chunk.logprobs or ()]
        return (
            transcript.text, transcript.finish, transcript.token_ids, transcript.thinking, transcript.logprobs,
            transcript.reasoning_tokens, joined(chunks, "reasoning"), joined(chunks, "answer"), shown,
        )  # fmt: skip

    one_by_one = outcome([token_id] for token_id in token_ids)
    parts: list[list[int]] = []
    rest, turn = token_ids, cycle(sizes)
    while rest:
        size = next(turn)
        parts.append(rest[:size])
        rest = rest[size:]
    assert outcome(parts) == one_by_one
