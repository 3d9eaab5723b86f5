"""The parser against a slow reference, under every way of splitting the bytes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkroute.errors import EngineProtocolError
from thinkroute.wire.sse import DONE, Event, SseParser, render, render_comment, render_json

# Pieces that matter to the format, so that random joins hit its corners far more often than random bytes would.
_PIECES = st.sampled_from(
    [
        b"data", b"data:", b"data: ", b"event: ", b"id:", b"retry: 10", b":", b" ", b"\n", b"\r", b"\r\n", b"\n\n",
        b"\xef\xbb\xbf", b"{}", b"[DONE]", b"x", "é".encode(), "思".encode(), b"\xff", b"\0", b"\x0b", b"\x85",
    ]
)  # fmt: skip
_STREAMS = st.lists(_PIECES, max_size=40).map(b"".join)
_LINE = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]))
_DATA = st.lists(_LINE, min_size=1).map("\n".join)
_EVENTS = st.builds(Event, _DATA, _LINE.filter(bool), st.just(""))


def _parse(chunks: list[bytes]) -> list[Event]:
    parser = SseParser()
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    return events + parser.close()


def _split(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(stream) + 1) for cut in cuts})
    return [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]


def _reference(stream: bytes) -> list[Event]:
    """The standard's algorithm on the whole text at once, plus the last event without a blank line."""
    lines = re.split(rb"\r\n|\r|\n", stream.removeprefix(b"\xef\xbb\xbf"))
    events: list[Event] = []
    data: list[str] = []
    event_type = last_id = ""
    for line in [*(line.decode("utf-8", "replace") for line in lines), ""]:
        if line == "":
            if data:
                events.append(Event("\n".join(data), event_type or "message", last_id))
            data, event_type = [], ""
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            data.append(value)
        elif field == "event":
            event_type = value
        elif field == "id" and "\0" not in value:
            last_id = value
    return events


@given(_STREAMS, st.lists(st.integers(0, 1000), max_size=12))
def test_any_split_of_the_bytes_yields_the_events_of_the_reference(stream: bytes, cuts: list[int]) -> None:
    assert _parse(_split(stream, cuts)) == _reference(stream)


@given(_STREAMS)
def test_byte_by_byte_yields_the_events_of_the_whole(stream: bytes) -> None:
    assert _parse([stream[i : i + 1] for i in range(len(stream))]) == _parse([stream])


@given(st.lists(_EVENTS, max_size=6))
def test_rendered_events_parse_back_to_themselves(events: list[Event]) -> None:
    assert _parse([b"".join(render(event) for event in events)]) == events


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_line_end_in_data_reads_back_as_a_line_feed(data: str) -> None:
    [event] = _parse([render(Event(data))])
    assert event.data == re.sub("\r\n|\r", "\n", data)


def test_an_event_is_complete_with_its_blank_line_not_one_byte_later() -> None:
    parser = SseParser()
    assert parser.feed(b"data: a\r\n\r") == [Event("a")]
    assert parser.feed(b"\ndata: b\n\n") == [Event("b")]


def test_the_last_event_needs_no_blank_line() -> None:
    assert _parse([b"data: a\n\ndata: [DONE]"]) == [Event("a"), Event("[DONE]")]


def test_comments_and_unknown_fields_are_skipped() -> None:
    stream = render_comment("still here\nreally") + b"retry: 5\nfoo: bar\n\n" + render_json(b"{}") + DONE
    assert _parse([stream]) == [Event("{}"), Event("[DONE]")]


@pytest.mark.parametrize("piece_bytes", [1, 7, 1000])
def test_a_line_over_the_limit_is_refused_however_it_arrives(piece_bytes: int) -> None:
    parser = SseParser(limit_bytes=64)
    stream = b"data: " + b"x" * 100 + b"\n\n"
    pieces = [stream[start : start + piece_bytes] for start in range(0, len(stream), piece_bytes)]
    with pytest.raises(EngineProtocolError, match="line over the limit of 64 bytes"):
        list(map(parser.feed, pieces))


def test_an_event_of_many_short_lines_over_the_limit_is_refused() -> None:
    parser = SseParser(limit_bytes=64)
    with pytest.raises(EngineProtocolError, match="event over the limit"):
        parser.feed(b"data: xxxxxxxx\n" * 10)


@pytest.mark.parametrize("event", [Event("x", type="a\nb"), Event("x", id="a\rb"), Event("x", id="\0")])
def test_what_no_parser_could_read_back_is_not_rendered(event: Event) -> None:
    with pytest.raises(ValueError, match="cannot carry"):
        render(event)
