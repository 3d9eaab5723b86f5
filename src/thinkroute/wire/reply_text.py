"""The text of one reply: which channel each piece belongs to, and the raw message at the end.

Owns: everything that depends on how servers label text — a field for reasoning, tags in the answer, a tag that the
template wrote, a prefix repeated back. Does not own where in the payload the text was found.

Invariant: `chars` counts exactly the characters of the pieces handed out.
"""

from __future__ import annotations

from thinkroute.catalog import Family
from thinkroute.programs.protocol import Call, ThinkingFormat
from thinkroute.types import Channel
from thinkroute.wire.thinking import (
    BlockLayout,
    EchoFilter,
    Piece,
    ThinkingSplitter,
    closing,
    raw_message,
)


class ReplyText:
    """The text of one reply: which channel each piece belongs to, and the raw message at the end."""

    def __init__(self, call: Call, family: Family) -> None:
        thinking = ThinkingFormat(family.open_text, family.close_text, family.stop_text)
        # Only templates of families that cannot but think are known to write the open tag themselves.
        always = family.levels == ("on",)
        self._thinking = thinking
        self._prefixed = bool(call.prefix)
        self._answer_only = call.thinking_closed
        self._always_thinks = always
        self._may_think = always or (call.effort.thinks and family.levels != ("default",))
        self._opened = not self._answer_only if self._prefixed else always
        self._splitter = ThinkingSplitter(thinking, "reasoning" if self._opened else "answer")
        self._layout = BlockLayout(thought_begun=self._prefixed)
        self._raw_prefix = call.prefix_text
        before, _, after = self._raw_prefix.partition(thinking.close_tag)
        self._thought_echo = EchoFilter(before.strip().removeprefix(thinking.open_tag))
        self._answer_after_close = after
        self._content_echo: EchoFilter | None = None
        self._thoughts: list[str] = []
        self._contents: list[str] = []
        self._chars: dict[Channel, int] = {"reasoning": 0, "answer": 0}
        self.whole = False
        """Whether the whole text is known at once, so that a missing open tag can be told from a missing block."""
        self.called_tool = False
        self.cut = False
        """Whether a cap ended the reply."""

    @property
    def chars(self) -> tuple[int, int]:
        """Characters of reasoning and of answer."""
        return self._chars["reasoning"], self._chars["answer"]

    @property
    def closed(self) -> bool:
        """Whether the message ends outside a thinking block."""
        if self._answer_only or self.called_tool:
            return True
        if self._thoughts:
            return bool("".join(self._contents))
        if not self._contents and not self._prefixed:
            return not self._cut_unseen
        return not self._splitter.thinking

    @property
    def _cut_unseen(self) -> bool:
        """A cap of a token or two ends a reply before its server shows any thinking: the block is open all the same."""
        nothing = not (self._prefixed or self._thoughts or self._contents or self.called_tool)
        return nothing and self.cut and self._may_think

    def reasoning(self, text: str) -> list[Piece]:
        """Text from a field for reasoning."""
        text = self._thought_echo.feed(text)
        if not text:
            return []
        if self._answer_only:
            self._contents.append(text)
            return self._count([("answer", text)])
        self._thoughts.append(text)
        return self._count([("reasoning", self._layout.thought(text))])

    def content(self, text: str) -> list[Piece]:
        """Text from the field for the answer."""
        if self._prefixed:
            if self._content_echo is None:
                repeats_thought = self._thought_echo.matched
                self._content_echo = EchoFilter(
                    self._answer_after_close if repeats_thought else self._raw_prefix
                )
            text = self._content_echo.feed(text)
        return self._take(text)

    def close(self) -> list[Piece]:
        """Everything still held back."""
        pieces: list[Piece] = []
        if held := self._thought_echo.close():
            pieces += self.reasoning(held)
        if self._content_echo is not None and (held := self._content_echo.close()):
            pieces += self._take(held)
        if self.cut and not self._contents:
            pieces += self._count([("reasoning", self._layout.cut())])
        return pieces + self._count(self._splitter.close())

    def raw(self) -> str:
        """The message as the model wrote it, tags included; put together again when the server took it apart."""
        thought, content = "".join(self._thoughts), "".join(self._contents)
        if self._cut_unseen:
            return self._thinking.open_text
        if self._answer_only or not thought:
            opened = self._opened and not self._prefixed and content
            return self._thinking.open_text + content if opened and self._lacks_open_tag(content) else content
        answer = content if self.closed else None
        if self._prefixed:
            return thought if answer is None else thought + closing(thought, answer, self._thinking)
        return raw_message(thought, answer, self._thinking)

    def _take(self, text: str) -> list[Piece]:
        if not text:
            return []
        if not self._contents and self.whole and not self._answer_only:
            self._look_ahead(text)
        self._contents.append(text)
        # A server that has split the thinking off leaves no tags behind: what looks like one is the model's own.
        if self._thoughts:
            return self._count([("answer", self._layout.answer(text))])
        return self._count([("answer", text)] if self._answer_only else self._splitter.feed(text))

    def _look_ahead(self, text: str) -> None:
        """With the whole text known, a block whose open tag is in the template shows by its close tag alone."""
        if self._prefixed or not self._may_think:
            return
        shows = self._thinking.close_tag in text or (self._always_thinks and self.cut)
        self._opened = shows and self._lacks_open_tag(text)
        self._splitter = ThinkingSplitter(self._thinking, "reasoning" if self._opened else "answer")

    def _lacks_open_tag(self, text: str) -> bool:
        return not text.lstrip().startswith(self._thinking.open_tag)

    def _count(self, pieces: list[Piece]) -> list[Piece]:
        for channel, text in pieces:
            self._chars[channel] += len(text)
        return [piece for piece in pieces if piece[1]]
