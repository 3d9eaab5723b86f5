"""Splitting raw messages into channels, and putting them together again."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from thinkroute.programs.protocol import ThinkingFormat
from thinkroute.types import Channel
from thinkroute.wire.thinking import EchoFilter, ThinkingSplitter, raw_message

THINKING = ThinkingFormat()
_TEXTS = st.lists(
    st.sampled_from(["<think>", "</think>", "<thi", "nk>", "</", "<", "\n", "\n\n", " ", "a", "word ", "思"]),
    max_size=12,
).map("".join)
_CUTS = st.lists(st.integers(0, 60), max_size=8)


def _pieces(text: str, cuts: list[int]) -> list[str]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in pairwise(places)]


def _split(pieces: list[str], unopened: Channel = "answer") -> tuple[str, str, bool]:
    splitter = ThinkingSplitter(THINKING, unopened)
    found = [piece for text in pieces for piece in splitter.feed(text)] + splitter.close()
    reasoning = "".join(text for channel, text in found if channel == "reasoning")
    return reasoning, "".join(text for channel, text in found if channel == "answer"), splitter.thinking


@given(_TEXTS, _CUTS, st.sampled_from(["answer", "reasoning"]))
@example("<think>\n\na</think>", [8, 9, 10], "answer")
def test_any_split_gives_the_same_channels(text: str, cuts: list[int], unopened: Channel) -> None:
    assert _split(_pieces(text, cuts), unopened) == _split([text], unopened)


@given(_TEXTS, st.sampled_from(["answer", "reasoning"]))
def test_no_character_but_tags_and_line_feeds_is_lost(text: str, unopened: Channel) -> None:
    reasoning, answer, _ = _split([text], unopened)
    for removed in ("<think>", "</think>", "\n", " "):
        text = text.replace(removed, "")
        reasoning, answer = reasoning.replace(removed, ""), answer.replace(removed, "")
    assert reasoning + answer == text


@pytest.mark.parametrize(
    ("text", "unopened", "expected"),
    [
        ("<think>\nhm\n</think>\n\nyes", "answer", ("hm", "yes", False)),
        ("\n <think>hm</think>yes", "answer", ("hm", "yes", False)),
        ("<think>\n\n</think>\n\nyes", "answer", ("", "yes", False)),
        ("<think>\nhm", "answer", ("hm", "", True)),
        ("hm\n</think>\n\nyes", "reasoning", ("hm", "yes", False)),
        ("hm", "reasoning", ("hm", "", True)),
        ("just an answer", "answer", ("", "just an answer", False)),
        ("write <think> in tags", "answer", ("", "write <think> in tags", False)),
        ("<think>a</think>b</think>c", "answer", ("a", "b</think>c", False)),
        ("<thi", "answer", ("", "<thi", False)),
        ("<think>a</thi", "answer", ("a</thi", "", True)),
        ("", "answer", ("", "", False)),
    ],
)
def test_channels_worked_out_by_hand(text: str, unopened: Channel, expected: tuple[str, str, bool]) -> None:
    assert _split([text], unopened) == expected


def test_text_is_handed_out_as_soon_as_it_cannot_be_a_tag() -> None:
    splitter = ThinkingSplitter(THINKING)
    assert splitter.feed("<think>\nword") == [("reasoning", "word")]
    assert splitter.feed(" </") == [("reasoning", " ")]
    assert splitter.feed("b") == [("reasoning", "</b")]
    assert splitter.feed("</think>") == []
    assert splitter.feed("\n\n") == []
    assert splitter.feed("four") == [("answer", "four")]


_PLAIN = st.text("ab \n", min_size=1, max_size=8).filter(lambda text: bool(text.strip()))


@given(_PLAIN, st.none() | _PLAIN)
def test_a_message_put_together_splits_into_what_it_was_made_of(reasoning: str, answer: str | None) -> None:
    thought, answered, thinking = _split([raw_message(reasoning, answer, THINKING)])
    assert thought == (reasoning.strip("\n") if answer is not None else reasoning.lstrip("\n"))
    assert (answered, thinking) == ((answer or "").lstrip("\n"), answer is None)


@given(_PLAIN, st.sampled_from(["", "\n\n", " "]), _PLAIN.map(str.strip), _CUTS)
def test_a_repeated_prefix_is_dropped_however_it_is_cut(
    core: str, tail: str, rest: str, cuts: list[int]
) -> None:
    prefix = f"<think>{core.strip()}{tail}"
    echo = EchoFilter(prefix)
    assert "".join([echo.feed(piece) for piece in _pieces(prefix + rest, cuts)] + [echo.close()]) == rest
    assert echo.matched


@given(st.text("ab<", max_size=10), _CUTS)
def test_text_that_repeats_nothing_passes_unchanged(text: str, cuts: list[int]) -> None:
    echo = EchoFilter("<think>something else")
    assert "".join([echo.feed(piece) for piece in _pieces(text, cuts)] + [echo.close()]) == text
