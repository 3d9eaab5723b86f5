"""Soft switches: the last one counts, and only as a word of its own."""

from __future__ import annotations

import pytest

from thinkroute.wire.soft_switch import read_soft_switch


@pytest.mark.parametrize(
    ("texts", "asked"),
    [
        (["Two plus two? /no_think"], "off"),
        (["/NO_THINK", "and now think hard", "Three? /think please"], "on"),
        (["/think", "Four? /no_think"], "off"),
        (["I think so", "see https://example.com/think", "a/no_think"], None),
        ([], None),
    ],
)
def test_the_last_switch_that_is_a_word_of_its_own_counts(texts: list[str], asked: str | None) -> None:
    effort = read_soft_switch(texts)
    assert (effort.level if effort else None) == asked
