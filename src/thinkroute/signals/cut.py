"""Cutting a text to its head and its tail before anything reads it.

Instructions stand at one end of a prompt and the question at the other; what lies between is mostly material. Cutting
first bounds the time of everything after: a text of any length costs no more than `head_bytes + tail_bytes`.
"""

from __future__ import annotations


def head_and_tail(text: str, head_bytes: int, tail_bytes: int) -> bytes:
    """UTF-8 of at most `head_bytes` from the start and `tail_bytes` from the end, a blank between where it was cut.

    Equal to cutting the whole text's UTF-8, without making it: no character has less than one byte. A character at a
    cut may lose some of its bytes; decode with `errors="replace"` or `"ignore"`. Lone surrogates become `?`.
    """
    if len(text) > head_bytes + tail_bytes:
        head = text[:head_bytes].encode("utf-8", "replace")[:head_bytes]
        last = text[len(text) - tail_bytes :].encode("utf-8", "replace")
        return head + b" " + last[len(last) - tail_bytes :]
    raw = text.encode("utf-8", "replace")
    if len(raw) <= head_bytes + tail_bytes:
        return raw
    return raw[:head_bytes] + b" " + raw[len(raw) - tail_bytes :]
