"""What a run's folder already holds, before another run writes to it. Imports nothing heavy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from thinkroute.errors import ConfigError
from thinkroute.training.settings import AnyConfig

# A relay may be measured anew without being trained anew.
_NOT_OF_THE_WEIGHTS: Mapping[str, tuple[str, ...]] = {
    "adaptthink": (),
    "adacot": (),
    "fusion": (),
    "relay": ("evaluate", "token_routers", "checkpoint_every"),
}


def check_run(folder: Path, config: AnyConfig) -> None:
    """A run's folder is new, or holds a run of the same configuration.

    Raises:
        ConfigError: another configuration was run in it, which this run would write over; the message names what differs.
    """
    stored = folder / "config.json"
    begun = any(any(folder.glob(kind)) for kind in ("report.json", "checkpoint-*.pt", "reference-*.json"))
    if not begun or not stored.exists():
        return
    before = _flat(json.loads(stored.read_text(encoding="utf-8")))
    now = _flat(config.model_dump(mode="json"))
    after_training = _NOT_OF_THE_WEIGHTS[config.method]
    names = [
        name for name in (*now, *before) if before.get(name) != now.get(name) and name not in after_training
    ]
    if names:
        changes = ", ".join(f"{name} {before.get(name)} → {now.get(name)}" for name in dict.fromkeys(names))
        raise ConfigError(
            f"{folder} holds a run of another configuration ({changes}): choose another --out, or delete the folder",
            param="--out",
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted paths."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(cast("dict[str, Any]", value), f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
