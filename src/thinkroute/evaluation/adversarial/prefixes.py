"""Prefixes of random tokens that pull a router up: they mean nothing, and the dear arm answers.

The attack of Shafran et al. ("Rerouting LLM Routers", arXiv 2501.01818): one prefix of random tokens, put before any
query, found by hill climbing on queries at hand, then used on others. Tokens are replaced one at a time and a change
is kept when the router's mean preference for the strong arm rises. Only predictions are read, nothing inside a router.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from thinkroute.routers.table import FloatArray

TOKENS: Final = 10
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_MARKS: Final = (
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "$",
    "\\",
    "^",
    "_",
    "=",
    "+",
    "*",
    "/",
    "<",
    ">",
    "|",
    ";",
    "::",
    "?",
    "\n",
)

Preference = Callable[[Sequence[str]], FloatArray]
"""Texts to how much a router prefers the strong arm for each."""


def random_prefixes(count: int, seed: int) -> list[tuple[str, ...]]:
    """Token sequences without meaning: letters, numbers and marks."""
    source = random.Random(seed)  # noqa: S311 - an experiment, not secrecy
    return [tuple(_token(source) for _ in range(TOKENS)) for _ in range(count)]


def prefixed(tokens: Sequence[str], text: str) -> str:
    """The text behind a prefix."""
    return f"{' '.join(tokens)} {text}"


def climb(
    preference: Preference, texts: Sequence[str], starts: Sequence[tuple[str, ...]], steps: int, seed: int
) -> tuple[str, ...]:
    """The prefix of highest mean preference over `texts` that so many steps find, from the best of `starts`."""
    source = random.Random(seed)  # noqa: S311 - an experiment, not secrecy

    def height(tokens: Sequence[str]) -> float:
        return float(np.mean(preference([prefixed(tokens, text) for text in texts])))

    best = max(starts, key=height)
    reached = height(best)
    for _ in range(steps):
        place = source.randrange(len(best))
        changed = (*best[:place], _token(source), *best[place + 1 :])
        tried = height(changed)
        if tried > reached:
            best, reached = changed, tried
    return best


def _token(source: random.Random) -> str:
    kind = source.random()
    if kind < 0.6:
        return "".join(source.choices(_LETTERS, k=source.randint(2, 9)))
    if kind < 0.75:
        return str(source.randrange(10 ** source.randint(1, 5)))
    return source.choice(_MARKS)
