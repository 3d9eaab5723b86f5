"""Where a model family decides to think: the openings of both modes and the one token that tells them apart. No torch.

Qwen3 and the fleet open every message with `<think>`; the next token is a line break (thinking) or a blank line (an
empty block). Distilled R1 models are given `<think>` and a line break by their template; a first token `</think>` is
their empty block.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ALWAYS = f"Think between {THINK_OPEN} and {THINK_CLOSE} before every answer, whatever the question."
NEVER = f"Answer every question at once, and leave the block between {THINK_OPEN} and {THINK_CLOSE} empty."
"""System messages that leave no choice; AdaCoT's paper has such, and does not print them."""
_BLOCK = re.compile(
    r"\s*(?:<think>)?(?P<thought>(?:(?!</?think>).)*)</think>(?P<answer>(?:(?!</?think>).)*)", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Openings:
    """How a response begins in either mode, up to and including the token that decides."""

    think: str
    no_think: str
    decision: int
    """Position of the deciding token in the response; the tokens before it are the same in both modes."""
    no_think_token: str
    """Text of the deciding token when the answer comes at once."""
    empty_block: str
    """A whole empty block, as it stands before an answer."""


QWEN3 = Openings("<think>\n", "<think>\n\n", 1, "\n\n", "<think>\n\n</think>\n\n")
"""Qwen3 and the fleet."""


def r1_distill(first_words: str) -> Openings:
    """Models whose template ends inside the block.

    Args:
        first_words: What the model's thoughts naturally begin with, one token (`reference.first_token` finds it).
    """
    return Openings(first_words, "</think>", 0, "</think>", "</think>\n\n")


def is_well_formed(response: str) -> bool:
    """Exactly one block, at the beginning, and an answer after it."""
    found = _BLOCK.fullmatch(response)
    return found is not None and bool(found["answer"].strip())


def has_reasoning(response: str) -> bool:
    """Whether anything but white space stands in the thinking block, closed or not."""
    thought = response.partition(THINK_CLOSE)[0].replace(THINK_OPEN, "")
    return bool(thought.strip())
