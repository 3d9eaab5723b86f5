"""The fleet's prompt format: reading a conversation and rendering it as the members' prompt.

Owns the Python twin of the members' Jinja chat template, for whoever has no Jinja: the embedded engine, and raw
completions of a member behind another server; a test holds the two equal. The format is Qwen3's, with one
simplification: members read only the last user message, so earlier turns and system messages are left out of the
prompt, except for their soft switches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from thinkroute.wire.soft_switch import SWITCHES

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
EMPTY_THINKING = f"{THINK_OPEN}\n\n{THINK_CLOSE}\n\n"


@dataclass(frozen=True, slots=True)
class Turn:
    """What a member sees of a conversation."""

    question: str
    """The last user message, normalised and without switches."""
    switch: str = ""
    """The last soft switch of the conversation, or an empty string."""


def text_of(content: object) -> str:
    """Plain text of a message's content: a string, or a list of parts of which the text ones count."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return ""
    texts: list[str] = []
    for part in cast("Sequence[object]", content):
        if isinstance(part, Mapping):
            text = cast("Mapping[str, object]", part).get("text")
            if isinstance(text, str):
                texts.append(text)
    return "\n".join(texts)


def normalise(text: str) -> str:
    """Lower case, single spaces, no space before and no run of punctuation at the end."""
    joined = " ".join(text.lower().split())
    return joined.replace(" .", ".").replace(" ?", "?").rstrip(" .?!")


def _read(messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    for message in messages:
        role = message.get("role")
        if role in ("user", "system", "developer"):
            yield role, text_of(message.get("content")).split()


def last_turn(messages: Sequence[Mapping[str, Any]]) -> Turn:
    """The last user message and the last soft switch; both empty when there is none."""
    question, switch = "", ""
    for role, words in _read(messages):
        for word in words:
            if word.lower() in SWITCHES:
                switch = word.lower()
        if role == "user":
            question = " ".join(word for word in words if word.lower() not in SWITCHES)
    return Turn(normalise(question), switch)


def render(turn: Turn, *, thinking: bool = True) -> str:
    """The prompt up to where the model begins; `thinking=False` prefills an empty thinking block."""
    switch = f" {turn.switch}" if turn.switch else ""
    head = f"{TURN_START}user\n{turn.question}{switch}{TURN_END}\n{TURN_START}assistant\n"
    return head if thinking else head + EMPTY_THINKING
