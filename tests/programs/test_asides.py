"""Commands are taken out of texts, token pieces and streams alike."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from thinkroute.programs.asides import AsideFilter, Asides

CALL = Asides("<call>", "</call>")
TEXTS = st.lists(
    st.sampled_from(
        ["<call>", "</call>", "3", " 12", "<", "</", "call>", "\n", "a", " words that are long ", "<call"]
    ),
    max_size=12,
)


def shown(pieces: list[str]) -> str:
    stream = AsideFilter(CALL)
    return "".join([*(stream.feed(piece) for piece in pieces), stream.close()])


def test_a_command_goes_with_its_number_and_a_stray_tag_goes_alone() -> None:
    assert CALL.removed("2 * 4 =<call> 1</call> 8 ; b") == "2 * 4 = 8 ; b"
    assert CALL.removed("a <call>this is much too long for a command</call> b") == (
        "a this is much too long for a command b"
    )
    assert CALL.removed("a </call>b<call>") == "a b"
    assert CALL.removed("so <call>12") == "so ", "a command cut by the end goes with its number"
    assert CALL.removed("so <call>12\nmore") == "so 12\nmore"


@given(TEXTS)
def test_a_stream_shows_what_the_whole_text_would_however_it_is_cut(pieces: list[str]) -> None:
    assert shown(pieces) == shown(list("".join(pieces))) == CALL.removed("".join(pieces))


@given(TEXTS)
def test_kept_pieces_are_the_text_without_commands(pieces: list[str]) -> None:
    kept = CALL.kept(pieces)
    if kept is not None:
        assert "".join(pieces[index] for index in kept) == CALL.removed("".join(pieces))


def test_pieces_that_hold_more_than_a_command_cannot_be_dropped() -> None:
    assert CALL.kept(["a", "<call>", "3", "</call>", "b"]) == [0, 4]
    assert CALL.kept(["a<call>", "3", "</call>b"]) is None


def test_text_that_cannot_become_a_command_is_shown_at_once() -> None:
    stream = AsideFilter(CALL)
    assert stream.feed("1 < 2") == "1 < 2"
    assert stream.feed(" <ca") == " "
    assert stream.feed("t>") == "<cat>"
