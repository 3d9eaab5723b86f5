"""Head and tail: what is kept, and that cutting bounds the work."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkroute.signals.cut import head_and_tail


@given(st.text(), st.integers(1, 20), st.integers(0, 20))
def test_cutting_the_text_equals_cutting_its_bytes(text: str, head: int, tail: int) -> None:
    raw = text.encode("utf-8", "replace")
    whole = raw if len(raw) <= head + tail else raw[:head] + b" " + raw[len(raw) - tail :]
    assert head_and_tail(text, head, tail) == whole


@pytest.mark.parametrize("text", ["", "short", "x" * 1_000_000, "\ud800" * 50, "\x00" * 5000, "語" * 9000])
def test_whatever_the_text_no_more_is_kept_than_was_asked_for(text: str) -> None:
    assert len(head_and_tail(text, 64, 32)) <= 64 + 32 + 1


def test_without_a_tail_only_the_head_is_kept() -> None:
    assert head_and_tail("abcdef", 3, 0) == b"abc "
