"""Libraries that only some encoders need: asked for by name, so that a missing one says how to get it."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from thinkroute.errors import ConfigError


def optional(library: str, *, extra: str) -> ModuleType:
    """The library `library`, imported now.

    Raises:
        ConfigError: it is not installed; the message names the extra that brings it.
    """
    try:
        return import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library.partition(".")[0]:
            raise
        raise ConfigError(
            f"{library} is not installed: get it with pip install 'thinkroute[{extra}]'"
        ) from error
