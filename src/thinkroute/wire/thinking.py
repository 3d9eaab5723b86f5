"""Where thinking ends and the answer begins, in text that carries both.

Owns: the incremental split of one raw assistant message into its channels, and the inverse, putting a raw message
together from channels a server has already split. Does not own which request asked for what.

Invariant: however the text is split into pieces, each channel receives the same characters.
"""

from __future__ import annotations

from thinkroute.programs.protocol import ThinkingFormat
from thinkroute.types import Channel

Piece = tuple[Channel, str]


class ThinkingSplitter:
    """Splits one message as it arrives. Only a block at the very start counts; later tags are ordinary text.

    Line feeds that only lay out the block (after the open tag, around the close tag) belong to neither channel.
    """

    def __init__(self, thinking: ThinkingFormat, unopened: Channel = "answer") -> None:
        """`unopened` is what a message without an open tag begins as: `reasoning` when its template wrote the tag."""
        self._open_tag = thinking.open_tag
        self._close_tag = thinking.close_tag
        self._unopened: Channel = unopened
        self._channel: Channel | None = None
        self._held = ""
        self._trim = False

    @property
    def thinking(self) -> bool:
        """Whether the text so far ends inside a thinking block."""
        return (self._channel or self._unopened) == "reasoning"

    def feed(self, text: str) -> list[Piece]:
        """The pieces this text completes. A possible tag is held back until it is one or is not."""
        if self._channel == "answer" and not self._trim:
            return [("answer", text)] if text else []
        self._held += text
        if self._channel is None and not self._start():
            return []
        pieces: list[Piece] = []
        if self._channel == "reasoning":
            self._think(pieces)
        if self._channel == "answer":
            self._add(pieces, self._held)
            self._held = ""
        return pieces

    def close(self) -> list[Piece]:
        """What was held back: no tag will complete it any more."""
        pieces: list[Piece] = []
        self._channel = self._channel or self._unopened
        self._add(pieces, self._held)
        self._held = ""
        return pieces

    def _start(self) -> bool:
        """Decide the first channel; False while the text may still become an open tag."""
        text = self._held.lstrip()
        if text.startswith(self._open_tag):
            self._channel = "reasoning"
            self._held = text.removeprefix(self._open_tag)
            self._trim = True
        elif self._open_tag.startswith(text):
            return False
        else:
            self._channel = self._unopened
            self._trim = self._channel == "reasoning"
        return True

    def _think(self, pieces: list[Piece]) -> None:
        thought, found, rest = self._held.partition(self._close_tag)
        if found:
            self._add(pieces, thought.rstrip("\n"))
            self._channel, self._held, self._trim = "answer", rest, True
            return
        cut = len(thought) - _overlap(thought, self._close_tag)
        cut = len(thought[:cut].rstrip("\n"))
        self._add(pieces, thought[:cut])
        self._held = thought[cut:]

    def _add(self, pieces: list[Piece], text: str) -> None:
        if self._trim:
            text = text.lstrip("\n")
            self._trim = not text
        if text and self._channel:
            pieces.append((self._channel, text))


class BlockLayout:
    """Drops the line feeds that only lay out a block, from channels that a server has split already.

    The same ones as `ThinkingSplitter`: around the thought and before the answer. Servers leave them in.
    """

    def __init__(self, *, thought_begun: bool) -> None:
        """`thought_begun` when the thought goes on from a prefix: its first line feeds are the model's own."""
        self._thought_begun = thought_begun
        self._answer_begun = False
        self._held = ""

    def thought(self, text: str) -> str:
        """The part to show; line feeds at the end wait until more of the thought follows."""
        text = self._held + text
        if not self._thought_begun:
            text = text.lstrip("\n")
        shown = text.rstrip("\n")
        self._held = text[len(shown) :]
        self._thought_begun = self._thought_begun or bool(shown)
        return shown

    def answer(self, text: str) -> str:
        """The part to show."""
        if not self._answer_begun:
            text = text.lstrip("\n")
            self._answer_begun = bool(text)
        return text

    def cut(self) -> str:
        """The line feeds held back, when the thought was cut off after them: whatever follows needs them."""
        held, self._held = self._held, ""
        return held


def raw_message(reasoning: str, answer: str | None, thinking: ThinkingFormat) -> str:
    """The message as the model would have written it, from channels that a server split.

    `answer` None leaves the block open. Servers trim the block's line feeds or keep them; each is written once.
    """
    opening = thinking.open_tag if reasoning.startswith("\n") else thinking.open_text
    return opening + reasoning + ("" if answer is None else closing(reasoning, answer, thinking))


def closing(reasoning: str, answer: str, thinking: ThinkingFormat) -> str:
    """The close of a block after this reasoning, with the answer, line feeds written once."""
    close = thinking.close_text
    if reasoning.endswith("\n"):
        close = close.lstrip("\n")
    if answer.startswith("\n"):
        close = close.rstrip("\n")
    return close + answer


class EchoFilter:
    """Drops from the start of a text what a server repeats of the message it was asked to continue.

    White space around the repetition is not compared: servers trim it.
    """

    def __init__(self, expected: str) -> None:
        self._core = expected.strip()
        self._tail = expected[len(expected.rstrip()) :]
        self._held = ""
        self._deciding = bool(self._core)
        self.matched = False

    def feed(self, text: str) -> str:
        """The part of the text that is new; empty while it may still be a repetition."""
        if self._deciding:
            self._held += text
            begin = self._held.lstrip()
            if len(begin) < len(self._core) and self._core.startswith(begin):
                return ""
            self._deciding = False
            self.matched = begin.startswith(self._core)
            text = begin.removeprefix(self._core) if self.matched else self._held
        return self._without_tail(text) if self.matched and self._tail else text

    def close(self) -> str:
        """What was held back and turned out to be new after all."""
        held = self._held if self._deciding else ""
        self._deciding = False
        return held

    def _without_tail(self, text: str) -> str:
        while text and self._tail:
            if text[0] != self._tail[0]:
                self._tail = ""
                break
            text, self._tail = text[1:], self._tail[1:]
        return text


def _overlap(text: str, tag: str) -> int:
    """Length of the longest end of the text that begins the tag."""
    return next((n for n in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:n])), 0)
