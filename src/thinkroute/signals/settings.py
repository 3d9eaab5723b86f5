"""Reading settings of encoders: unknown names and wrong types are refused with what would be right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, TypeVar

from thinkroute.errors import ConfigError
from thinkroute.signals.base import Scalar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SettingsT = TypeVar("SettingsT", bound="DataclassInstance")


def read_settings(owner: str, defaults: SettingsT, parameters: Mapping[str, Scalar]) -> SettingsT:
    """`defaults` with `parameters` laid over it.

    Args:
        owner: Whose settings, as the error names it, e.g. `encoder static`.
        defaults: An instance whose values tell the types.
        parameters: What was set.

    Raises:
        ConfigError: an unknown name, or a value of another type than the default's.
    """
    known: dict[str, type[Scalar]] = {f.name: type(getattr(defaults, f.name)) for f in fields(defaults)}
    for name, value in parameters.items():
        if name not in known:
            raise ConfigError(f"{owner} has no setting {name!r}: use {', '.join(known) or 'none'}")
        fits = isinstance(value, known[name]) or (known[name] is float and isinstance(value, int))
        if not fits or isinstance(value, bool) is not (known[name] is bool):
            raise ConfigError(f"{owner}: {name}={value!r} must be of type {known[name].__name__}")
    return replace(defaults, **parameters)
