"""Request bodies as JSON objects: deep nesting is refused before anything parses it, in linear time."""

from __future__ import annotations

import re
from typing import Any, cast

import orjson

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


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body.

    Raises:
        InvalidRequest: it is not JSON, or not an object.
    """
    try:
        raw: object = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise InvalidRequest("the body must be a JSON object")
    return cast("dict[str, Any]", raw)
