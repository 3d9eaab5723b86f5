"""Facts about models: which family they belong to and how its thinking is controlled.

Data with sources lives in the YAML beside this module; the code only looks things up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml

from thinkroute.errors import ConfigError
from thinkroute.types import EffortLevel, Price

Control = Literal["template_flag", "effort_field", "none"]
OffOutcome = Literal["disabled", "lowest", "unsupported"]
Continuation = Literal["none", "prefill", "completions"]


@dataclass(frozen=True, slots=True)
class Family:
    """How one family of models thinks and how that is controlled."""

    name: str
    control: Control
    off_means: OffOutcome
    """What asking for `off` really does. Never report it as more than this."""
    levels: tuple[EffortLevel, ...]
    """Effort levels the family accepts, lowest first."""
    source: str
    patterns: tuple[str, ...] = ()
    cap_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Request field of the token cap; OpenAI's reasoning models refuse the older name."""
    flag: str = "enable_thinking"
    """Name of the chat template flag when `control` is `template_flag`."""
    budget: Literal["two_call", "none"] = "none"
    """Whether the two-call thinking budget works with this family's message format."""
    soft_switches: bool = False
    """Whether the model obeys `/think` and `/no_think` in messages, the last one winning."""
    open_text: str = "<think>\n"
    close_text: str = "\n</think>\n\n"
    stop_text: str = "I have to give the answer now."
    direct_text: str = ""
    """How a message begins that answers at once, for a model that was taught to choose; empty: nothing is known of it."""
    direct_token: str = ""
    """The token of `direct_text` that decides: a message that thinks has another in its place."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model as resolved from the configuration: complete, nothing is `auto` any more."""

    name: str
    """The name arms and callers use."""
    upstream_name: str
    """The name the engine knows it by."""
    engine: Literal["embedded", "http"]
    family: Family
    base_url: str = ""
    """For `http`: the API root, ending in `/v1`."""
    api_key: str | None = None
    price: Price | None = None
    """None: unknown, which is not zero."""
    description: str = ""
    """What its user says of it; empty when nothing."""
    parameters_b: float | None = None
    """Size in billions of parameters as its user says; None when unsaid."""
    context_window: int | None = None
    """Tokens of prompt plus generation; None when unknown."""
    capabilities: frozenset[str] = frozenset()
    """What it can do beyond text: `tools`, `images`, `json`, `logprobs`."""
    continuation: Continuation = "none"
    """How the engine continues its own message: `prefill` (chat with continue_final_message) or `completions`."""
    thinking_budget_field: str | None = None
    """Request field by which the server itself enforces a thinking budget, e.g. `thinking_token_budget`."""
    connect_timeout_s: float = 5.0
    first_byte_timeout_s: float = 60.0
    total_timeout_s: float = 600.0


@cache
def families() -> tuple[Family, ...]:
    """All families in the order they are tried."""
    raw: dict[str, list[dict[str, Any]]] = yaml.safe_load(
        files("thinkroute.catalog").joinpath("families.yaml").read_text(encoding="utf-8")
    )
    return tuple(_family(entry) for entry in raw["families"])


def _family(entry: dict[str, Any]) -> Family:
    lists = {"levels": tuple(entry["levels"]), "patterns": tuple(entry["patterns"])}
    fields: dict[str, Any] = {**entry, **lists}
    return Family(**fields)


def family_of(model_name: str) -> Family:
    """The first family whose pattern occurs in the model's name (organisation prefix ignored)."""
    bare = model_name.rsplit("/", 1)[-1]
    return next(
        family
        for family in families()
        if any(re.search(pattern, bare, re.IGNORECASE) for pattern in family.patterns)
    )


def family_named(name: str) -> Family:
    """The family of this name.

    Raises:
        ConfigError: there is none; the message lists the known ones.
    """
    for family in families():
        if family.name == name:
            return family
    known = ", ".join(family.name for family in families())
    raise ConfigError(f"unknown model family {name!r}; known families: {known}", param="family")
