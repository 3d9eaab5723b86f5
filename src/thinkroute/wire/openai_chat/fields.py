"""Reading single fields of a request: the right type or an error that names the field. Null means absent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from thinkroute.errors import InvalidRequest

_LARGEST = 10**9
"""No token count is larger; engines overflow on what is."""


def read_boolean(fields: Mapping[str, Any], name: str, prefix: str = "") -> bool:
    """True or false; absent is false. `prefix` names the place in errors.

    Raises:
        InvalidRequest: anything else.
    """
    value = fields.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise InvalidRequest(f"`{prefix}{name}` must be true or false", param=prefix + name)
    return value


def read_integer(fields: Mapping[str, Any], name: str, minimum: int) -> int | None:
    """An integer of at least `minimum`; absent is None.

    Raises:
        InvalidRequest: anything else.
    """
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= _LARGEST:
        raise InvalidRequest(
            f"`{name}` must be an integer of at least {minimum}, not {value!r:.50}", param=name
        )
    return value


def read_object(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object; absent is an empty one.

    Raises:
        InvalidRequest: anything else.
    """
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest(f"`{name}` must be an object", param=name)
    return cast("dict[str, Any]", value)
