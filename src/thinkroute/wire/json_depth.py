"""Refusing deep nesting before anything parses it. Linear time, whatever the bytes."""

from __future__ import annotations

import re

from thinkroute.errors import InvalidRequest

# Possessive and closed at end of input: an unterminated string is consumed once, never rescanned.
_STRING = re.compile(rb'"[^"\\]*+(?:\\(?:.|\Z)[^"\\]*+)*+(?:"|\Z)', re.DOTALL)
_NOT_BRACKET = bytes(byte for byte in range(256) if byte not in b"[]{}")
_OPENING = b"[{"


def check_depth(body: bytes, max_depth: int) -> None:
    """Raise if JSON text nests deeper than `max_depth` arrays and objects.

    Raises:
        InvalidRequest: it does. Malformed JSON is not this function's business.
    """
    if body.count(b"[") + body.count(b"{") <= max_depth:
        return
    depth = 0
    for byte in _STRING.sub(b"", body).translate(None, _NOT_BRACKET):
        if byte in _OPENING:
            depth += 1
            if depth > max_depth:
                raise InvalidRequest(f"the body nests deeper than {max_depth} levels")
        else:
            depth -= 1
