"""Server-sent events over bytes, as the WHATWG HTML standard defines them (section 9.2.6), in both directions.

Owns: splitting any byte stream into events, and rendering events. Does not own what the data means (`[DONE]`, JSON).

Invariants: how the bytes are split never changes the events; a bounded amount of memory is held whatever arrives.

Two deliberate departures from the standard: an event that the stream ends inside is handed out by `close` instead of
being discarded (several servers forget the last blank line), and `retry` is ignored (nothing here reconnects).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from thinkroute.errors import EngineProtocolError

DONE = b"data: [DONE]\n\n"
"""The terminator of OpenAI's streams."""

_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event."""

    data: str
    """The data lines, joined by line feeds. Bytes that are not UTF-8 became U+FFFD."""
    type: str = "message"
    """The `event` field."""
    id: str = ""
    """The last event id seen so far on this stream."""


class SseParser:
    """Incremental parser: `feed` bytes as they arrive, `close` at the end."""

    def __init__(self, limit_bytes: int = 16 * 1024 * 1024) -> None:
        """Refuse lines, and events, of more than `limit_bytes`."""
        self._limit_bytes = limit_bytes
        self._partial: list[bytes] = []  # pieces of a line whose end has not come: joined once, not per piece
        self._partial_bytes = 0
        self._after_cr = False
        self._first_line = True
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._type = ""
        self._id = ""

    def feed(self, chunk: bytes) -> list[Event]:
        """Events completed by these bytes.

        Raises:
            EngineProtocolError: a line or an event is longer than the limit. The parser is unusable afterwards.
        """
        if self._after_cr and chunk:
            # A CR has already ended its line; the LF of a split CRLF must not end another.
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if not chunk:
            return []
        lines = chunk.splitlines()
        if chunk.endswith((b"\n", b"\r")):
            self._after_cr = chunk.endswith(b"\r")
            rest = b""
        else:
            rest = lines.pop()
        events: list[Event] = []
        for line in lines:
            self._take_line(line, events)
        if rest:
            self._partial.append(rest)
            self._partial_bytes += len(rest)
            if self._partial_bytes > self._limit_bytes:
                raise self._over_limit("line")
        return events

    def close(self) -> list[Event]:
        """The event the stream ended inside, if it has data."""
        events: list[Event] = []
        if self._partial:
            self._take_line(b"", events)
        if self._data:
            events.append(self._dispatch())
        return events

    def _take_line(self, line: bytes, events: list[Event]) -> None:
        if self._partial:
            self._partial.append(line)
            line = b"".join(self._partial)
            self._partial.clear()
            self._partial_bytes = 0
        if len(line) > self._limit_bytes:
            raise self._over_limit("line")
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(_BOM)
        if line:
            self._field(line)
        elif self._data:
            events.append(self._dispatch())
        else:
            self._type = ""

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._data_bytes += len(value) + 1
            if self._data_bytes > self._limit_bytes:
                raise self._over_limit("event")
        elif name == b"event":
            self._type = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")

    def _dispatch(self) -> Event:
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        event = Event(data.decode("utf-8", "replace"), self._type or "message", self._id)
        self._data = []
        self._data_bytes = 0
        self._type = ""
        return event

    def _over_limit(self, what: str) -> EngineProtocolError:
        return EngineProtocolError(f"server-sent {what} over the limit of {self._limit_bytes} bytes")


def render(event: Event) -> bytes:
    """The bytes of an event.

    The format cannot carry carriage returns: each becomes a line feed in the data, as every line end does.

    Raises:
        ValueError: the type or id holds a line end, or the id a NUL, which no parser would read back.
    """
    if _LINE_END.search(event.type + event.id) or "\0" in event.id:
        raise ValueError(f"a server-sent event cannot carry type {event.type!r} with id {event.id!r}")
    lines = [f"data: {line}" for line in _LINE_END.split(event.data)]
    if event.id:
        lines.insert(0, f"id: {event.id}")
    if event.type != "message":
        lines.insert(0, f"event: {event.type}")
    return ("\n".join(lines) + "\n\n").encode()


def render_json(payload: bytes) -> bytes:
    """The bytes of an event whose data is one line of JSON, already encoded."""
    return b"data: " + payload + b"\n\n"


def render_comment(text: str = "") -> bytes:
    """A comment, which parsers skip: keeps an idle connection alive."""
    return "".join(f": {line}\n" for line in _LINE_END.split(text)).encode() + b"\n"
