"""What a fake model says, as raw text in countable tokens. Shared by the scripted engine and the fake upstream."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thinkroute.errors import ThinkrouteError
from thinkroute.programs.protocol import SegmentFinish, ThinkingFormat

THINKING = ThinkingFormat()
"""How fake models write thinking."""

_TOKEN = re.compile(r"^\s+|\S+\s*")


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole message of a fake model: what it would say if nothing stopped it."""

    answer: str
    reasoning: str = ""
    """Said in a thinking block, when the request lets the model think."""
    finish: SegmentFinish = "stop"
    """Finish reason of a message that is not cut."""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    """In OpenAI's shape; sent by the fake upstream after the answer."""
    error: ThinkrouteError | None = None
    """Raised by the scripted engine instead of going on."""
    error_after_tokens: int = 0
    """How many tokens come before `error`."""

    def continuation(self, prefix: str, *, thinks: bool) -> str:
        """The raw text that follows `prefix` in this message.

        A prefix that closed its thinking block is followed by the answer, even when the block was cut short or
        written by somebody else; text the prefix already holds is not said again.
        """
        if THINKING.close_tag in prefix:
            said = prefix.rpartition(THINKING.close_tag)[2].lstrip("\n")
            return _after(self.answer, said)
        if not thinks or not self.reasoning:
            return _after(self.answer, prefix)
        message = THINKING.open_text + self.reasoning + THINKING.close_text + self.answer
        return _after(message, prefix)


def tokens(text: str) -> list[str]:
    """The text cut after each word's white space; joined, the tokens are the text."""
    return _TOKEN.findall(text)


def _after(message: str, said: str) -> str:
    same = next((i for i, (a, b) in enumerate(zip(message, said, strict=False)) if a != b), len(said))
    return message[same:]
