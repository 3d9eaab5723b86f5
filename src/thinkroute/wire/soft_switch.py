"""Soft switches: words in a message by which a caller asks hybrid models of the Qwen3 kind to think or not to.

Reads them only; they stay in the text, because the models themselves obey them.
"""

from __future__ import annotations

from collections.abc import Iterable

from thinkroute.types import Effort

SWITCHES = THINK, NO_THINK = ("/think", "/no_think")


def read_soft_switch(texts: Iterable[str]) -> Effort | None:
    """What the last switch in a conversation's texts asks for; None without one. A switch is a word of its own."""
    asked: Effort | None = None
    for text in texts:
        # Long prompts are common and switches are rare: look for the common part before splitting into words.
        if "think" not in text and "THINK" not in text:
            continue
        for word in text.split():
            if word.lower() in SWITCHES:
                asked = Effort("off" if word.lower() == NO_THINK else "on")
    return asked
