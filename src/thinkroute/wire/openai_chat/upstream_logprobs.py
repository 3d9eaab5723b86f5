"""An upstream's log-probabilities: completions' parallel lists brought into chat's shape, and read into our type.

A two-call budget asks `/chat/completions` first and `/completions` after it; its caller must not notice.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, repeat
from typing import Any, cast

from thinkroute.programs.protocol import TokenLogprob


def in_chat_shape(logprobs: object, top: int) -> object:
    """Completions' lists (`tokens`, `token_logprobs`, `top_logprobs`) as chat's `content`; all else as it came.

    `top` is how many alternatives the caller asked for: completions cannot be asked for none.
    """
    if not isinstance(logprobs, dict):
        return logprobs
    fields = cast("dict[str, object]", logprobs)
    tokens, values, more = (fields.get(name) for name in ("tokens", "token_logprobs", "top_logprobs"))
    if not isinstance(tokens, list) or not isinstance(values, list):
        return fields
    alternatives = chain(cast("list[object]", more) if isinstance(more, list) else (), repeat(None))
    rows = zip(cast("list[object]", tokens), cast("list[object]", values), alternatives, strict=False)
    return {"content": [_entry(token, value, likeliest, top) for token, value, likeliest in rows]}


def token_logprobs(entries: Sequence[object]) -> tuple[TokenLogprob, ...] | None:
    """All entries of chat's `content`; None unless every one can be read."""
    tokens = [_token_logprob(entry) for entry in entries]
    read = tuple(token for token in tokens if token is not None)
    return read if read and len(read) == len(tokens) else None


def _entry(token: object, value: object, alternatives: object, top: int) -> dict[str, object]:
    likeliest = cast("dict[str, object]", alternatives) if isinstance(alternatives, dict) else {}
    listed = [_named(text, logprob) for text, logprob in list(likeliest.items())[:top]]
    return {**_named(token, value), "top_logprobs": listed}


def _named(token: object, logprob: object) -> dict[str, object]:
    return {
        "token": token,
        "logprob": logprob,
        "bytes": list(token.encode()) if isinstance(token, str) else None,
    }


def _token_logprob(value: object) -> TokenLogprob | None:
    if not isinstance(value, dict):
        return None
    entry = cast("dict[str, Any]", value)
    token, logprob = entry.get("token"), entry.get("logprob")
    if not isinstance(token, str) or not isinstance(logprob, int | float):
        return None
    alternatives = entry.get("top_logprobs")
    top = (
        [_token_logprob(item) for item in cast("list[object]", alternatives)]
        if isinstance(alternatives, list)
        else []
    )
    return TokenLogprob(token, float(logprob), tuple((t.token, t.logprob) for t in top if t is not None))
