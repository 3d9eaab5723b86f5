"""Prompts meant to mislead a router, and what a router does with them.

Owns the set: short prompts that are hard and long prompts that are easy, in eight domains, written for this project
(`prompts.jsonl`, under the project's licence). A router that mistakes length or vocabulary for difficulty sends them
the wrong way. Measuring is `misroute`, prefixes that pull a router up are `prefixes`.
"""

from __future__ import annotations

from importlib import resources
from typing import Final, Literal

import msgspec

Kind = Literal["hard_short", "easy_long"]

FILE: Final = "prompts.jsonl"


class TrickPrompt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One prompt."""

    id: str
    kind: Kind
    domain: str
    text: str
    core: str | None = None
    """Of an easy long prompt: the bare request in it."""


def load_prompts() -> tuple[TrickPrompt, ...]:
    """The set, in the order of its file."""
    lines = resources.files(__name__).joinpath(FILE).read_bytes().splitlines()
    return tuple(msgspec.json.decode(line, type=TrickPrompt) for line in lines)
