"""Deep nesting is found before parsing, in linear time, and never by mistake."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkroute.errors import InvalidRequest
from thinkroute.wire.json_body import check_depth

values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=30,
)


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max((depth_of(item) for item in value.values()), default=0)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list):
        return 1 + max((depth_of(item) for item in value), default=0)  # pyright: ignore[reportUnknownVariableType]
    return 0


@given(values, st.integers(1, 6), st.booleans())
def test_it_raises_exactly_beyond_the_limit(value: Any, limit: int, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    if depth_of(value) <= limit:
        check_depth(body, limit)
    else:
        with pytest.raises(InvalidRequest):
            check_depth(body, limit)


def test_brackets_in_strings_are_text() -> None:
    check_depth(json.dumps({"a": "[[[[{{{{" * 100, 'b"\\': "]]]]\\"}).encode(), 2)


@pytest.mark.parametrize(
    "body", [b'"' + b'\\"' * 2_000_000, b'"\\' * 1_000_000, b"[" * 4_000_000, b'{"' * 2_000_000]
)
def test_hostile_bytes_take_linear_time(body: bytes) -> None:
    started = time.process_time()
    with suppress(InvalidRequest):
        check_depth(body, 64)
    assert time.process_time() - started < 2.0
